"""F10 and F11: certificate, authority and signing key change under load; files that are wrong change nothing."""

import asyncio
import base64
import json
import random
import re
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
    fresh.write_text(text)
    fresh.chmod(mode)
    fresh.rename(path)


def serial(door):
    """What a new connection is shown."""
    import socket
    import ssl

    context = ssl.create_default_context(cafile=door.ca)
    with socket.create_connection(("127.0.0.1", door.port), 5) as raw, context.wrap_socket(raw, server_hostname=DOMAIN) as secured:
        return secured.getpeercert()["serialNumber"]


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
        context = door.context("alice")
        first = await keys(door)
        door.stop()
        # The clock goes on as it should from there: one that runs ahead is one under which nothing is issued.
        door.extra |= {"LD_PRELOAD": str(library()), "FAKETIME": "+3570", "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}
        door.start()
        began, tokens, bad, good, kids, signers = time.monotonic(), [], [], 0, set(first), set()
        connection = await door.connect("alice", context=context)
        while time.monotonic() - began < 50:
            done = await asyncio.to_thread(door.cli, "token", "--service", "ops-api", "--for", "5m", profile="alice", check=False)
            if done.returncode == 0:
                tokens.append(done.stdout.strip())
                signers.add(signer(tokens[-1]))
            else:
                bad.append(("issuing", done.stderr[-120:]))
            for token in random.sample(tokens, min(len(tokens), 20)):
                answer = await connection.ask("GET", "/echo/token", [("authorization", f"Bearer {token}")])
                if answer.status == 200:
                    good += 1
                else:
                    bad.append((answer.status, answer.reason()))
            kids |= await keys(door)
            await asyncio.sleep(0.2)
        leg.count("signing keys that were published after the first two", len(kids - first), 1)
        leg.figure("keys that signed", len(signers), "2", len(signers) == 2)
        leg.count("tokens used across their change", good, 20)
        leg.none("of these refused, or not issued", bad)
    finally:
        door.close()


def signer(token):
    """The key that a token names."""
    head = token.split(".")[0]
    return json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))["kid"]


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
        version = door.metric("doorward_policy_services")
        service, cedar = door.policies() / "ops-api" / "service.toml", door.policies() / "ops-api" / "access.cedar"
        keys = door.dir / "keys"
        edits = [
            ("service.toml: syntax", service, lambda text: text.replace("[[route]]", "[[route", 1)),
            ("access.cedar: an attribute that is none", cedar, lambda text: text + "\npermit (principal, action, resource) when { principal.grups == 1 };\n"),
            ("doorward.toml: half of it", door.config, lambda text: text[: [value.end() for value in re.finditer(r'(?m)^[a-z_]+ = "', text)][-1]]),
            ("server.crt: another's", keys / "server.crt", lambda text: (keys / "ca.crt").read_text()),
            ("doorward.toml: no such authority", door.config, lambda text: text.replace('"keys/ca.crt"', '"keys/none.crt"')),
            ("service.toml: unknown key", service, lambda text: "upstream = 1\n" + text),
            ("service.toml: no upstreams", service, lambda text: re.sub(r"upstreams = \[.*\]", "upstreams = []", text)),
            ("access.cedar: syntax", cedar, lambda text: text + "\npermit (\n"),
            ("access.cedar: no text", cedar, lambda text: "\x00\x01\x02\udcff".encode("utf-8", "surrogateescape").decode("latin-1")),
            ("doorward.toml: unknown key", door.config, lambda text: text.replace("[server]", "[server]\nlisten_on = 1", 1)),
            ("groups.toml: syntax", door.policies() / "groups.toml", lambda text: text + "\n[[[\n"),
            ("server.crt: empty", keys / "server.crt", lambda text: ""),
            ("global.cedar: an action that is none", door.policies() / "global.cedar", lambda text: text + '\npermit (principal, action == Action::"fly", resource);\n'),
        ]
        taken, unplaced = [], []
        for name, path, edit in edits[:4] if Options.short else edits:
            good, mark = path.read_text(), len(door.told())
            put(path, edit(good))
            if await until(lambda: "refused; the old ones" in door.told()[mark:], 10) is None:
                taken.append(name)
            elif not re.search(re.escape(path.name) + r"(:\d+:\d+|)", door.told()[mark:]):
                unplaced.append(name)
            mark = len(door.told())
            put(path, good)
            if await until(lambda: "are in force" in door.told()[mark:], 10) is None:
                unplaced.append(f"{name}: good again, and not taken")
        leg.none("bad files that were not refused", taken)
        leg.none("refusals that do not name the file", unplaced)
        leg.figure("services in force", door.metric("doorward_policy_services"), f"{version}", door.metric("doorward_policy_services") == version)
        await asyncio.sleep(0.5)
        fds, rss = door.fds(), door.rss()
        storms = 100
        for _ in range(storms):
            door.reload()
            await asyncio.sleep(0.01)
        reloaded = await until(lambda: door.ask("/readyz")[0] == 200, 10)
        leg.at_most(f"{storms} times SIGHUP: ready after", reloaded, 5.0)
        await asyncio.sleep(2)
        first, handles = door.rss(), door.fds()
        for _ in range(storms):
            door.reload()
            await asyncio.sleep(0.01)
        await asyncio.sleep(2)
        # What the first storm grew (connections of the database's pool, the allocator's pages) is not
        # lost; what the second adds would be.
        leg.at_most(f"file handles that a second storm adds (before: {fds}, first: {handles - fds:+d})", door.fds() - handles, 6, "", of_time=False)
        leg.at_most(f"memory that a second storm adds (before: {rss:.0f}, first: {first - rss:+.0f} MiB)", door.rss() - first, 16, "MiB", of_time=False)
        await load.stop()
        leg.count("requests meanwhile", len(load.answered), 200)
        leg.none("of these refused or broken", load.refused + load.broken)
        whole(leg, door)
    finally:
        door.close()
