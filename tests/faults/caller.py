"""Clients of a gateway under test: HTTP/1.1, HTTP/2, WebSocket, and the whole way of a sign-in.

Small on purpose: what a client got is compared with what the upstream and the record say, so nothing
in here tries again, follows or repairs by itself.
"""

import asyncio
import base64
import hashlib
import html
import json
import os
import re
import ssl
import struct
import subprocess
import urllib.parse

DOMAIN = "doorward.localhost"
TIMEOUT = 20
# The fields of a form that nobody types.
HIDDEN = re.compile(r'<input type="hidden" name="([^"]*)" value="([^"]*)">')


class Broken(Exception):
    """The connection ended before an answer did."""


def trust(ca, certificate=None, key=None, alpn=("http/1.1",)):
    """What a connection trusts and shows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(ca)
    if certificate:
        context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(list(alpn))
    return context


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)

    def reason(self):
        try:
            return self.json().get("reason") or self.json().get("error")
        except ValueError:
            return None

    def __repr__(self):
        return f"{self.status} {self.body[:200]!r}"


class H1:
    """One connection with HTTP/1.1, one request at a time."""

    def __init__(self, reader, writer, host):
        self.reader, self.writer, self.host = reader, writer, host

    @classmethod
    async def open(cls, port, host, context, name=None):
        opened = asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=host if context else None, limit=1 << 20)
        try:
            reader, writer = await asyncio.wait_for(opened, TIMEOUT)
        except (OSError, ssl.SSLError, asyncio.TimeoutError, asyncio.IncompleteReadError) as error:
            raise Broken(f"connecting: {error!r}") from error
        return cls(reader, writer, name or f"{host}:{port}")

    def send_head(self, method, path, headers=()):
        lines = [f"{method} {path} HTTP/1.1", f"host: {self.host}", *(f"{k}: {v}" for k, v in headers)]
        self.writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())

    async def head(self):
        try:
            text = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), TIMEOUT)
        except (OSError, ssl.SSLError, asyncio.IncompleteReadError, asyncio.TimeoutError) as error:
            raise Broken(f"waiting for an answer: {error!r}") from error
        first, *rest = text.decode("latin-1").split("\r\n")[:-2]
        headers = [(k.lower(), v.strip()) for k, v in (line.split(":", 1) for line in rest)]
        return int(first.split()[1]), headers

    async def body(self, headers, method="GET", status=200):
        found = dict(headers)
        try:
            if method == "HEAD" or status in (204, 304):
                return b""
            if "content-length" in found:
                return await asyncio.wait_for(self.reader.readexactly(int(found["content-length"])), TIMEOUT)
            whole = b""
            while found.get("transfer-encoding", "").lower() == "chunked":
                size = int((await asyncio.wait_for(self.reader.readline(), TIMEOUT)).split(b";")[0] or b"x", 16)
                piece = await asyncio.wait_for(self.reader.readexactly(size + 2), TIMEOUT)
                if not size:
                    return whole
                whole += piece[:-2]
            return await asyncio.wait_for(self.reader.read(), TIMEOUT)
        except (OSError, ValueError, ssl.SSLError, asyncio.IncompleteReadError, asyncio.TimeoutError) as error:
            raise Broken(f"in the midst of a body: {error!r}") from error

    async def ask(self, method, path, headers=(), body=None):
        headers = list(headers)
        if body is not None:
            headers.append(("content-length", str(len(body))))
        try:
            self.send_head(method, path, headers)
            if body:
                self.writer.write(body)
            await asyncio.wait_for(self.writer.drain(), TIMEOUT)
        except (OSError, ssl.SSLError, asyncio.TimeoutError) as error:
            raise Broken(f"sending: {error!r}") from error
        status, got = await self.head()
        return Answer(status, dict(got), await self.body(got, method, status))

    def close(self):
        self.writer.transport.abort()


class Socket:
    """A WebSocket after its upgrade (RFC 6455)."""

    def __init__(self, connection):
        self.connection = connection

    @classmethod
    async def open(cls, port, host, context, path="/ws"):
        connection = await H1.open(port, host, context)
        key = base64.b64encode(os.urandom(16)).decode()
        connection.send_head("GET", path, [("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-key", key),
                                           ("sec-websocket-version", "13")])
        status, headers = await connection.head()
        if status != 101:
            raise Broken(f"no upgrade: {status}")
        return cls(connection)

    async def echo(self, text):
        """Sends a text, waits for it to come back."""
        body, mask = text.encode(), os.urandom(4)
        masked = bytes(b ^ mask[i % 4] for i, b in enumerate(body))
        try:
            self.connection.writer.write(struct.pack("!BB", 0x81, 0x80 | len(body)) + mask + masked)
            await self.connection.writer.drain()
            head = await asyncio.wait_for(self.connection.reader.readexactly(2), TIMEOUT)
            got = await asyncio.wait_for(self.connection.reader.readexactly(head[1] & 127), TIMEOUT)
        except (OSError, ssl.SSLError, asyncio.IncompleteReadError, asyncio.TimeoutError) as error:
            raise Broken(f"WebSocket: {error!r}") from error
        return got.decode()

    async def closed(self):
        """Returns when the other side has ended it."""
        try:
            while await self.connection.reader.read(4096):
                pass
        except (OSError, ssl.SSLError):
            pass

    def close(self):
        self.connection.close()


class H2:
    """One connection with HTTP/2; requests may overlap."""

    def __init__(self, reader, writer, authority):
        import h2.config
        import h2.connection

        self.reader, self.writer, self.authority = reader, writer, authority
        self.state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.waiting, self.over = {}, None
        self.state.initiate_connection()
        self.writer.write(self.state.data_to_send())
        self.task = asyncio.create_task(self.read())

    @classmethod
    async def open(cls, port, host, context):
        connection = await H1.open(port, host, context)
        if connection.writer.get_extra_info("ssl_object").selected_alpn_protocol() != "h2":
            raise Broken("h2 was not agreed on")
        return cls(connection.reader, connection.writer, f"{host}:{port}")

    async def read(self):
        import h2.events as events

        why = "ended"
        try:
            while data := await self.reader.read(65536):
                for event in self.state.receive_data(data):
                    stream = getattr(event, "stream_id", None)
                    entry = self.waiting.get(stream)
                    if isinstance(event, events.ResponseReceived) and entry:
                        entry["headers"] = dict(event.headers)
                        if not entry["head"].done():
                            entry["head"].set_result(entry["headers"])
                    elif isinstance(event, events.DataReceived):
                        self.state.acknowledge_received_data(event.flow_controlled_length, stream)
                        if entry:
                            entry["body"] += event.data
                    elif isinstance(event, events.StreamEnded) and entry:
                        self.settle(stream, None)
                    elif isinstance(event, events.StreamReset):
                        self.settle(stream, f"reset {event.error_code}")
                    elif isinstance(event, events.ConnectionTerminated):
                        why = f"GOAWAY {event.error_code}"
                self.writer.write(self.state.data_to_send())
        except Exception as error:  # whatever it was, everybody who waits hears of it
            why = repr(error)
        self.over = why
        for stream in list(self.waiting):
            self.settle(stream, why)

    def settle(self, stream, error):
        entry = self.waiting.pop(stream, None)
        if entry is None:
            return
        for future in (entry["head"], entry["done"]):
            if not future.done():
                if error:
                    future.set_exception(Broken(error))
                    future.exception()
                else:
                    future.set_result(entry)

    def begin(self, method, path, headers=(), end=True):
        if self.over:
            raise Broken(self.over)
        stream = self.state.get_next_available_stream_id()
        loop = asyncio.get_running_loop()
        self.waiting[stream] = {"head": loop.create_future(), "done": loop.create_future(), "body": b"", "headers": {}}
        head = [(":method", method), (":path", path), (":scheme", "https"), (":authority", self.authority), *headers]
        self.state.send_headers(stream, head, end_stream=end)
        self.writer.write(self.state.data_to_send())
        return stream, self.waiting[stream]

    def data(self, stream, body, end=False):
        self.state.send_data(stream, body, end_stream=end)
        self.writer.write(self.state.data_to_send())

    async def ask(self, method, path, headers=(), body=None):
        import h2.exceptions

        try:
            stream, entry = self.begin(method, path, headers, end=body is None)
            if body is not None:
                self.data(stream, body, end=True)
            await asyncio.wait_for(entry["done"], TIMEOUT)
        except (h2.exceptions.ProtocolError, OSError, asyncio.TimeoutError) as error:
            raise Broken(repr(error)) from error
        return Answer(int(entry["headers"][":status"]), entry["headers"], bytes(entry["body"]))

    def close(self):
        self.writer.transport.abort()


class Minted:
    """A session of its own: its certificate's files, its tokens."""

    def __init__(self, answer, certificate, key):
        self.id, self.answer = answer["session"]["id"], answer
        self.certificate, self.key = certificate, key

    def context(self, ca, alpn=("http/1.1",)):
        return trust(ca, self.certificate, self.key, alpn)


class SignIn:
    """The sign-in of the command line, step by step, so that each step can be repeated."""

    def __init__(self, door, folder):
        self.door, self.folder = door, folder
        self.key, self.request = folder / "key.pem", folder / "request.pem"
        if not self.request.exists():
            folder.mkdir(parents=True, exist_ok=True)
            subprocess.run(["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
                            self.key, "-out", self.request, "-subj", "/CN=doorward-cli"], check=True, capture_output=True)

    async def code(self, name, connection=None, before_callback=None):
        """An authorization code and the verifier that goes with it."""
        verifier = base64.urlsafe_b64encode(os.urandom(32)).rstrip(b"=").decode()
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        redirect = "http://127.0.0.1:1/callback"
        asked = {"response_type": "code", "client_id": "doorward-cli", "redirect_uri": redirect, "code_challenge": challenge,
                 "code_challenge_method": "S256", "state": verifier[:16], "login_hint": name, "provider": "dev"}
        url = f"{self.door.control}/oauth2/authorize?{urllib.parse.urlencode(asked)}"
        jar, own = {}, connection or await self.door.control_connection()
        try:
            for _ in range(16):
                parts = urllib.parse.urlsplit(url)
                path = parts.path + (f"?{parts.query}" if parts.query else "")
                ours = url.startswith(self.door.control)
                if before_callback and parts.path == "/signin/callback":
                    before_callback()
                headers = [("accept", "text/html")]
                if ours and jar:
                    headers.append(("cookie", "; ".join(f"{k}={v}" for k, v in jar.items())))
                to = own if ours else await H1.open(parts.port, parts.hostname, None)
                to.send_head("GET", path, headers)
                status, got = await to.head()
                page = await to.body(got, "GET", status)
                if ours and status == 200 and parts.path == "/signin/program":
                    # The person at the browser says that the program is theirs.
                    fields = {html.unescape(k): html.unescape(v) for k, v in HIDDEN.findall(page.decode())}
                    agreed = urllib.parse.urlencode(fields | {"answer": "agree"}).encode()
                    headers += [("content-type", "application/x-www-form-urlencoded"), ("origin", self.door.control)]
                    answer = await to.ask("POST", parts.path, headers, agreed)
                    status, got = answer.status, list(answer.headers.items())
                if not ours:
                    to.close()
                for header, value in got:
                    if ours and header == "set-cookie":
                        key, _, rest = value.split(";")[0].partition("=")
                        if "max-age=0" in value.lower():
                            jar.pop(key, None)
                        else:
                            jar[key] = rest
                if status not in (302, 303, 307):
                    raise Broken(f"signing in as {name}: {status} at {parts.path}")
                url = urllib.parse.urljoin(url, dict(got)["location"])
                if url.startswith(redirect):
                    return urllib.parse.parse_qs(urllib.parse.urlsplit(url).query)["code"][0], verifier
        finally:
            if connection is None:
                own.close()
        raise Broken("too many redirects")

    async def redeem(self, code, verifier, connection=None):
        fields = {"grant_type": "authorization_code", "client_id": "doorward-cli", "code": code,
                  "redirect_uri": "http://127.0.0.1:1/callback", "code_verifier": verifier, "csr": self.request.read_text()}
        return await form(self.door, fields, connection)

    async def mint(self, name, number=0, connection=None):
        answer = await self.redeem(*await self.code(name, connection), connection)
        if answer.status != 200:
            raise Broken(f"signing in as {name}: {answer}")
        told = answer.json()
        certificate = self.folder / f"{name}-{number}.pem"
        certificate.write_text(told["certificate"])
        return Minted(told, certificate, self.key)


async def form(door, fields, connection=None, context=None):
    """A form posted to the token endpoint."""
    own = connection or await door.control_connection(context)
    try:
        return await own.ask("POST", "/oauth2/token", [("content-type", "application/x-www-form-urlencoded")],
                             urllib.parse.urlencode(fields).encode())
    finally:
        if connection is None:
            own.close()


async def post(connection, path, body):
    """JSON posted to the API."""
    return await connection.ask("POST", path, [("content-type", "application/json")], json.dumps(body).encode())


def percentile(values, share):
    """The value that so many are not above; none of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else None


def times(text):
    """Milliseconds since 1970 of an RFC 3339 time."""
    from datetime import datetime

    return datetime.fromisoformat(re.sub("Z$", "+00:00", text)).timestamp() * 1000
