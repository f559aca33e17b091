"""Upstreams that speak TLS: one as it should be, the others with a certificate that must not be taken."""

import asyncio
import ssl

from rotation import openssl

# What the certificates are for; a service says so in `upstream_tls`, since its upstreams are addresses.
NAME = "app.internal"
BODY = b"a body that is for the application alone"

# Of `openssl ca` alone is it to be had that a certificate has run out.
SETTINGS = """[ca]
default_ca = it
[it]
database = {folder}/issued
new_certs_dir = {folder}
rand_serial = yes
unique_subject = no
default_md = sha256
policy = names
[names]
commonName = supplied
"""


class Authority:
    """A CA and what it signs."""

    def __init__(self, folder):
        folder.mkdir(parents=True)
        self.folder, self.certificate, self.key = folder, folder / "ca.pem", folder / "key.pem"
        (folder / "issued").touch()
        (folder / "settings").write_text(SETTINGS.format(folder=folder))
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        openssl("req", "-x509", "-new", *curve, "-keyout", self.key, "-out", self.certificate, "-subj", f"/CN={folder.name}", "-days", "30",
                "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
        openssl("req", "-new", *curve, "-keyout", folder / "upstream.key", "-out", folder / "upstream.csr", "-subj", "/CN=an upstream")

    def upstream(self, name=NAME, until="20491231235959Z"):
        """An upstream with a certificate for this name that ends then."""
        extensions, made = self.folder / "extensions", self.folder / f"{name}-{until}.pem"
        extensions.write_text(f"subjectAltName=DNS:{name}\nextendedKeyUsage=serverAuth\n")
        openssl("ca", "-batch", "-notext", "-config", self.folder / "settings", "-cert", self.certificate, "-keyfile", self.key,
                "-startdate", "20200101000000Z", "-enddate", until, "-extfile", extensions, "-in", self.folder / "upstream.csr", "-out", made)
        return TlsUpstream(made, self.folder / "upstream.key")


class TlsUpstream:
    """One that remembers which names it was asked for and all that its application could read."""

    def __init__(self, certificate, key):
        self.asked, self.read = [], b""
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate, key)
        self.context.sni_callback = lambda _connection, name, _context: self.asked.append(name)

    async def open(self):
        self.server = await asyncio.start_server(self.connection, "127.0.0.1", 0, ssl=self.context)
        return self.server.sockets[0].getsockname()[1]

    async def connection(self, reader, writer):
        got = b""
        while not got.endswith(BODY) and (data := await reader.read(65536)):
            got += data
            self.read += data
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\nconnection: close\r\n\r\nserved\n")
        writer.close()


class TlsUpstreams:
    """The good one and the bad ones, each with a service of its own."""

    def __init__(self, folder):
        ours, stranger = Authority(folder / "authority"), Authority(folder / "stranger")
        self.settings = f'\n[upstream_tls]\nca = "{ours.certificate}"\nserver_name = "{NAME}"\n'
        self.all = {"good": ours.upstream(), "unknown-authority": stranger.upstream(), "other-name": ours.upstream("other.internal"),
                    "expired": ours.upstream(until="20210101000000Z")}

    async def open(self):
        """The port of each service."""
        return {f"tls-{kind}": await upstream.open() for kind, upstream in self.all.items()}

    async def judge(self, leg, door):
        """What callers are told; the bodies of the refusals."""
        bodies = []
        for kind, upstream in self.all.items():
            answers = [await self.ask(door, f"tls-{kind}", number) for number in range(3)]
            told = ", ".join(sorted({f"{answer.status} {answer.reason() or ''}".strip() for answer in answers}))
            what = f"certificate of a TLS upstream: {kind.replace('-', ' ')}"
            if kind == "good":
                taken = upstream.read.count(BODY)
                leg.figure(what, f"{told}, {taken} read", "200, 3 read", told == "200" and taken == 3)
                continue
            bodies += [answer.body for answer in answers if answer.status != 200]
            leg.figure(what, f"{told}, {len(upstream.asked)} hellos, {len(upstream.read)} B read", "502 upstream_unavailable, 3 hellos, 0 B",
                       told == "502 upstream_unavailable" and upstream.asked == [NAME] * 3 and not upstream.read)
        return bodies

    async def ask(self, door, service, number):
        connection = await door.connect("alice", service)
        try:
            return await connection.ask("POST", f"/echo/{service}-{number}", body=BODY)
        finally:
            connection.close()
