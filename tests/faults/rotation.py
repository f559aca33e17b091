"""F10 and F11: certificate, authority and signing key change under load; files that are wrong change nothing."""

import asyncio
import base64
import json
import os
import random
import re
import socket
import ssl
import subprocess
import time

from caller import DOMAIN, H1, H2, Broken, Socket
from clock import library
from crash import whole
from house import Door, Load, Options, Skip


def openssl(*arguments):
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, stdin=subprocess.DEVNULL)


def put(path, text, mode=0o600):
    """A file replaced whole, as careful tools do it."""
    fresh = path.with_name(f".{path.name}.tmp")
    fresh.write_text(text, encoding="utf-8", errors="surrogateescape")
    fresh.chmod(mode)
    fresh.rename(path)


def serial(door):
    """What a new connection is shown."""
    context = ssl.create_default_context(cafile=door.ca)
    with socket.create_connection(("127.0.0.1", door.port), 5) as raw, context.wrap_socket(raw, server_hostname=DOMAIN) as secured:
        return secured.getpeercert()["serialNumber"]


class Resumption:
    """A person's TLS sessions, of TLS 1.2 and of 1.3, offered again on each further connection."""

    def __init__(self, door, name):
        self.door, self.contexts, self.left = door, [door.context(name), door.context(name)], [None, None]
        self.contexts[0].maximum_version = ssl.TLSVersion.TLSv1_2

    def offer(self):
        """What comes of both."""
        return ", ".join(self.once(number) for number in (0, 1))

    def once(self, number):
        host = f"ops-api.{DOMAIN}"
        try:
            with socket.create_connection(("127.0.0.1", self.door.port), 5) as raw, \
                    self.contexts[number].wrap_socket(raw, server_hostname=host, session=self.left[number]) as secured:
                secured.settimeout(0.5)
                try:
                    # With TLS 1.3 a certificate is refused when the client takes the handshake for done.
                    secured.recv(1)
                except TimeoutError:
                    secured.settimeout(5)
                    secured.sendall(f"GET /echo/resumed HTTP/1.1\r\nhost: {host}:{self.door.port}\r\n\r\n".encode())
                status = secured.recv(4096).split()[1].decode()
                self.left[number] = secured.session
                return f"{status} resumed" if secured.session_reused else status
        except ssl.SSLError as error:
            return (error.reason or str(error)).lower()

    def tickets(self):
        return [session for session in self.left if session and (session.has_ticket or session.id)]


async def until(check, seconds=20):
    """Seconds until it holds, or none."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        try:
            if await asyncio.to_thread(check):
                return time.monotonic() - began
        except OSError:
            pass
        await asyncio.sleep(0.05)
    return None


class Echoes:
    """WebSockets that are in use all the time."""

    def __init__(self, door, name, count):
        self.door, self.name, self.count = door, name, count
        self.sent, self.broken, self.over = 0, [], False

    def start(self):
        context = self.door.context(self.name)
        self.tasks = [asyncio.create_task(self.run(context)) for _ in range(self.count)]
        return self

    async def run(self, context):
        try:
            connection = await Socket.open(self.door.port, f"ops-api.{DOMAIN}", context)
            while not self.over:
                if await connection.echo("still") != "still":
                    raise Broken("another answer")
                self.sent += 1
                await asyncio.sleep(0.1)
            connection.close()
        except Broken as error:
            self.broken.append(str(error))

    async def stop(self):
        self.over = True
        await asyncio.gather(*self.tasks)


async def f10(leg, folder):
    door = Door(folder, leg.engine)
    try:
        keys = door.dir / "keys"
        # Clients go on trusting the authority that signs the door's own certificate.
        outside = folder / "server-ca.pem"
        outside.write_text((keys / "ca.crt").read_text())
        old_key = folder / "old-ca.key"
        old_key.write_text((keys / "ca.key").read_text())
        door.ca = door.environment["DOORWARD_CA"] = str(outside)
        door.start()
        door.login("alice", "bob", "carol")
        loads = [Load(door, rate=100, connections=4).start(), Load(door, rate=100, connections=2, protocol="h2", prefix="h2-").start()]
        echoes = Echoes(door, "alice", 4).start()
        await asyncio.sleep(1)

        before = serial(door)
        openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", folder / "new.key",
                "-out", folder / "new.csr", "-subj", "/CN=the door")
        (folder / "ext").write_text(f"subjectAltName=DNS:{DOMAIN},DNS:*.{DOMAIN}\nextendedKeyUsage=serverAuth\n")
        openssl("x509", "-req", "-in", folder / "new.csr", "-CA", outside, "-CAkey", old_key, "-set_serial", "4711", "-days", "30",
                "-extfile", folder / "ext", "-out", folder / "new.crt")
        put(keys / "server.key", (folder / "new.key").read_text())
        put(keys / "server.crt", (folder / "new.crt").read_text())
        leg.at_most("a new server certificate is shown after", await until(lambda: serial(door) != before), 5.0)

        openssl("req", "-x509", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", folder / "ca2.key",
                "-out", folder / "ca2.crt", "-subj", "/CN=doorward authority 2", "-days", "90",
                "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
        both = (folder / "ca2.crt").read_text() + outside.read_text()
        put(keys / "ca.key", (folder / "ca2.key").read_text())
        put(keys / "ca.crt", both)
        leg.at_most("a new authority is in force after", await until(lambda: "authority 2" in issuer_after_login(door, "alice2"), 30), 10.0)
        await asyncio.sleep(0.5)
        old = [await opened(door, "bob", kind) for kind in ("h1", "h2", "ws")]
        sessions = Resumption(door, "bob")
        await asyncio.to_thread(sessions.offer)
        leg.none("TLS sessions of the old authority that the door keeps or gives away", sessions.tickets())
        seen = await asyncio.to_thread(sessions.offer)
        leg.figure("sessions of TLS 1.2 and 1.3 offered again, while trusted", seen, "200, 200", seen == "200, 200")
        for load in loads:
            await load.stop()
        await echoes.stop()
        first = list(loads)
        loads = [Load(door, "alice2", rate=100, connections=4, prefix="n").start(),
                 Load(door, "alice2", rate=100, connections=2, protocol="h2", prefix="n2-").start()]
        later = Echoes(door, "alice2", 4).start()
        await asyncio.sleep(1)
        put(keys / "ca.crt", (folder / "ca2.crt").read_text())
        began = time.monotonic()
        ends = []
        for kind, connection in old:
            try:
                await asyncio.wait_for(refused(kind, connection), 30)
                ends.append(time.monotonic() - began)
            except asyncio.TimeoutError:
                ends.append(None)
        leg.none("open connections of the old authority that go on", [k for (k, _), t in zip(old, ends) if t is None])
        leg.at_most("open h1, h2, WebSocket of the old authority end within", max((t for t in ends if t is not None), default=None), 5.0)
        try:
            await opened(door, "bob", "h1")
            again = "accepted"
        except Broken:
            again = "refused"
        leg.figure("a new connection with the old authority's certificate", again, "refused", again == "refused")
        seen = await asyncio.to_thread(sessions.offer)
        must = "tlsv1_alert_unknown_ca, tlsv1_alert_unknown_ca"
        leg.figure("sessions of TLS 1.2 and 1.3 offered again", seen, must, seen == must)
        await asyncio.sleep(1)
        for load in loads:
            await load.stop()
        await later.stop()
        everything = first + loads
        leg.count("requests meanwhile, h1 and h2", sum(len(load.answered) for load in everything), 200)
        leg.none("of these refused or broken", [row for load in everything for row in load.refused + load.broken])
        leg.count("WebSocket messages meanwhile", echoes.sent + later.sent, 40)
        leg.none("of these broken", echoes.broken + later.broken)
        door.cli("login", "--as", "carol", "--provider", "dev", profile="carol")
        whole(leg, door)
    finally:
        door.close()
    if Options.short:
        return
    try:
        await signing_key(leg, folder / "key")
    except Skip as skip:
        leg.table.add(leg.name, leg.engine, f"signing key: {skip}", "", "", "skipped")


def issuer_after_login(door, name):
    door.cli("login", "--as", "alice", "--provider", "dev", profile=name, check=False)
    home = door.folder / "home" / "profiles" / name
    if not (home / "certificate.pem").exists():
        return ""
    door.people[name] = (home / "certificate.pem", home / "key.pem")
    return subprocess.run(["openssl", "x509", "-noout", "-issuer", "-in", home / "certificate.pem"], capture_output=True, text=True).stdout


async def opened(door, name, kind):
    host = f"ops-api.{DOMAIN}"
    if kind == "ws":
        connection = await Socket.open(door.port, host, door.context(name))
        await connection.echo("x")
    else:
        context = door.context(name, ("h2",) if kind == "h2" else ("http/1.1",))
        connection = await (H2 if kind == "h2" else H1).open(door.port, host, context)
        answer = await connection.ask("GET", "/echo/old")
        if answer.status != 200:
            raise Broken(str(answer))
    return kind, connection


async def refused(kind, connection):
    if kind == "ws":
        return await connection.closed()
    try:
        while (await connection.ask("GET", "/echo/old")).status == 200:
            await asyncio.sleep(0.05)
    except Broken:
        pass


async def signing_key(leg, folder):
    """A gateway that is started again shortly before its key's time is over, and goes past it with tokens in use."""
    door = Door(folder, leg.engine, settings="")
    try:
        door.extra = {"DOORWARD__TOKENS__KEY_ROTATION": "1h", "DOORWARD__TOKENS__KEY_ANNOUNCE": "1m", "DOORWARD__SESSION__CERTIFICATE_TTL": "12h"}
        door.start()
        door.login("alice", "carol")
        first = await keys(door)
        await ahead(door, 3570)
        tokens = await key_changes(leg, door, first)
        old = [token for token in tokens if signer(token) != signer(tokens[-1])][-1]
        # The old key's time and that of every token are over.
        await ahead(door, 5000)
        await unpublished(leg, door, old, "a token that is over, of a key that is not published any more", {})
        # A clock that is set back: by it the token's time goes on, and the key was forgotten for good.
        await ahead(door, 3570)
        left = part(old, 1)["exp"] - time.time() - 3570
        leg.figure("a token of that key has still", f"{left:.0f} s", "> 0 s", left > 0)
        await unpublished(leg, door, old, "and is refused all the same", {"one of the key that signs": tokens[-1]})
    finally:
        door.close()


async def ahead(door, seconds):
    """Starts it anew, so far ahead. The clock goes on from there as it should: one that runs ahead is one
    under which nothing is issued."""
    await asyncio.to_thread(door.stop)
    door.extra |= {"LD_PRELOAD": str(library()), "FAKETIME": f"+{seconds}", "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}
    await asyncio.to_thread(door.start)


async def key_changes(leg, door, first):
    """Issues and uses tokens under load until another key signs, and for a while after; the tokens."""
    loads = [Load(door, rate=100, connections=4).start(), Load(door, rate=100, connections=2, protocol="h2", prefix="h2-").start()]
    echoes = Echoes(door, "alice", 4).start()
    began, tokens, bad, good, kids = time.monotonic(), [], [], 0, set(first)
    connection = await door.connect("alice")
    while time.monotonic() - began < 50:
        done = await asyncio.to_thread(door.cli, "token", "--service", "ops-api", "--for", "5m", profile="alice", check=False)
        if done.returncode == 0:
            tokens.append(done.stdout.strip())
        else:
            bad.append(("issuing", done.stderr[-120:]))
        for token in random.sample(tokens, min(len(tokens), 20)):
            seen = await shown(connection, token)
            good += seen == "200"
            bad += [seen] if seen != "200" else []
        kids |= await keys(door)
        await asyncio.sleep(0.2)
    seconds = time.monotonic() - began
    for load in (*loads, echoes):
        await load.stop()
    signers = {signer(token) for token in tokens}
    leg.count("signing keys that were published after the first two", len(kids - first), 1)
    leg.figure("keys that signed", len(signers), "2", len(signers) == 2)
    leg.count("tokens used across their change", good, 20)
    leg.none("of these refused, or not issued", bad)
    leg.count("requests a second meanwhile, h1 and h2", round(sum(len(load.answered) for load in loads) / seconds), 150)
    leg.none("of these refused or broken", [row for load in loads for row in load.refused + load.broken])
    leg.count("WebSocket messages meanwhile", echoes.sent, 400)
    leg.none("of these broken", echoes.broken)
    return tokens


async def unpublished(leg, door, token, what, good):
    """A token whose key left the key set is refused, where everything else passes."""
    found = signer(token) in await keys(door)
    leg.figure("the key set has its key", found, "False", not found)
    connection = await door.connect("alice")
    for title, credential, must in [(what, token, "401 bad_credential"), *((title, it, "200") for title, it in good.items()),
                                    ("the session without a token", None, "200")]:
        seen = await shown(connection, credential)
        leg.figure(title, seen, must, seen == must)


async def shown(connection, token):
    """What a token comes to on an open connection."""
    answer = await connection.ask("GET", "/echo/token", [("authorization", f"Bearer {token}")] if token else [])
    return f"{answer.status} {answer.reason() or ''}".strip()


def part(token, number):
    """What a token's head (0) or claims (1) say."""
    text = token.split(".")[number]
    return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


def signer(token):
    """The key that a token names."""
    return part(token, 0)["kid"]


async def keys(door):
    connection = await door.control_connection()
    try:
        return {key["kid"] for key in (await connection.ask("GET", "/oauth2/jwks")).json()["keys"]}
    finally:
        connection.close()


async def f11(leg, folder):
    door = Door(folder, leg.engine)
    try:
        door.start()
        door.login("alice", "carol")
        load = Load(door, rate=100, connections=4).start()
        await bad_edits(leg, door)
        await storms(leg, door)
        await load.stop()
        leg.count("requests meanwhile", len(load.answered), 200)
        leg.none("of these refused or broken", load.refused + load.broken)
        whole(leg, door)
        await asyncio.to_thread(port_taken, leg, door)
    finally:
        door.close()


def edits(door):
    """What is done to which file, so that it can't be used."""
    service, cedar = door.policies() / "ops-api" / "service.toml", door.policies() / "ops-api" / "access.cedar"
    keys = door.dir / "keys"
    return [
        ("service.toml: syntax", service, lambda text: text.replace("[[route]]", "[[route", 1)),
        ("access.cedar: an attribute that is none", cedar, lambda text: text + "\npermit (principal, action, resource) when { principal.grups == 1 };\n"),
        ("doorward.toml: half of it", door.config, lambda text: text[: [value.end() for value in re.finditer(r'(?m)^[a-z_]+ = "', text)][-1]]),
        ("server.crt: another's", keys / "server.crt", lambda text: (keys / "ca.crt").read_text()),
        # Legal Cedar, and refused here: nobody would pass any more, so it is taken for half-written.
        ("access.cedar: empty", cedar, lambda text: ""),
        ("access.cedar: comments only", cedar, lambda text: "// nobody\n"),
        ("doorward.toml: no such authority", door.config, lambda text: text.replace('"keys/ca.crt"', '"keys/none.crt"')),
        ("service.toml: unknown key", service, lambda text: "upstream = 1\n" + text),
        ("service.toml: no upstreams", service, lambda text: re.sub(r"upstreams = \[.*\]", "upstreams = []", text)),
        ("access.cedar: syntax", cedar, lambda text: text + "\npermit (\n"),
        ("access.cedar: no text", cedar, lambda text: text + "\0\1\2\udcff"),
        ("doorward.toml: unknown key", door.config, lambda text: text.replace("[server]", "[server]\nlisten_on = 1", 1)),
        ("groups.toml: syntax", door.policies() / "groups.toml", lambda text: text + "\n[[[\n"),
        ("server.crt: empty", keys / "server.crt", lambda text: ""),
        ("global.cedar: an action that is none", door.policies() / "global.cedar", lambda text: text + '\npermit (principal, action == Action::"fly", resource);\n'),
    ]


async def bad_edits(leg, door):
    """Each is refused with its place, and while it lies there everything goes on by the old files."""
    before = await in_force(door)
    taken, unplaced, changed, kept = [], [], [], []
    for name, path, edit in edits(door)[:5] if Options.short else edits(door):
        good, mark = path.read_text(), len(door.told())
        put(path, edit(good))
        if await until(lambda: "refused; the old ones" in door.told()[mark:], 10) is None:
            taken.append(name)
        elif not is_placed(path, good, edit(good), door.told()[mark:]):
            unplaced.append(name)
        if await in_force(door) != before:
            changed.append(name)
        mark = len(door.told())
        put(path, good)
        if await until(lambda: "are in force" in door.told()[mark:], 10) is None:
            kept.append(name)
    leg.none("bad files that were not refused", taken)
    leg.none("refusals that do not name file, line and column", unplaced)
    leg.none("bad files with which a decision had other policies, or the door another certificate", changed)
    leg.none("files that were good again, and not taken", kept)


def is_placed(path, good, bad, told):
    """Whether a refusal names file, line and column: those of what is wrong or after it, of a certificate
    those where the configuration names it."""
    if path.suffix not in (".toml", ".cedar"):
        return re.search(rf"doorward\.toml:\d+:\d+: error: [^;]*{re.escape(path.name)}", told) is not None
    wrong = os.path.commonprefix([good, bad]).count("\n") + 1
    places = [int(line) for line in re.findall(rf"{re.escape(path.name)}:(\d+):\d+: error", told)]
    return bool(places) and min(places) >= wrong


async def in_force(door):
    """Which policies a request is judged by, as its decision has it, and which certificate is shown."""
    connection, control = await door.connect("alice"), await door.control_connection(door.context("alice"))
    try:
        answer = await connection.ask("GET", "/echo/version")
        decision = await control.ask("GET", f"/api/v1/decisions/{answer.headers['doorward-decision']}")
        return decision.json()["policy_version"], await asyncio.to_thread(serial, door)
    finally:
        connection.close()
        control.close()


async def storms(leg, door, count=100):
    await asyncio.sleep(0.5)
    fds, rss = door.fds(), door.rss()
    for _ in range(count):
        door.reload()
        await asyncio.sleep(0.01)
    leg.at_most(f"{count} times SIGHUP: ready after", await until(lambda: door.ask("/readyz")[0] == 200, 10), 5.0)
    await asyncio.sleep(2)
    first, handles = door.rss(), door.fds()
    for _ in range(count):
        door.reload()
        await asyncio.sleep(0.01)
    await asyncio.sleep(2)
    # What the first storm grew (connections of the database's pool, the allocator's pages) is not
    # lost; what the second adds would be.
    leg.at_most(f"file handles that a second storm adds (before: {fds}, first: {handles - fds:+d})", door.fds() - handles, 6, "", of_time=False)
    leg.at_most(f"memory that a second storm adds (before: {rss:.0f}, first: {first - rss:+.0f} MiB)", door.rss() - first, 16, "MiB", of_time=False)


def port_taken(leg, door):
    """An address is only read at a start: one that another program has ends it."""
    door.stop()
    address = f"127.0.0.1:{door.port}"
    with socket.create_server(("127.0.0.1", door.port)):
        done = subprocess.run([Options.binary, "serve", "--config", door.config], env=door.environment, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=30)
    leg.figure("started where its port is taken: exit code", done.returncode, "2", done.returncode == 2)
    named = f"{address} " in done.stderr
    leg.figure("and names its address", address if named else done.stderr[-120:], address, named)
    leg.at_most("and once it is free, ready after", door.start(), 5.0)
