"""F9 and F15: thousands of connections that send next to nothing; hundreds of sessions that are ended."""

import asyncio
import json
import os
import random
import resource
import socket
import subprocess
import time
import tomllib
import urllib.parse
import urllib.request

from caller import DOMAIN, H1, H2, Broken, SignIn, Socket, percentile, post
from crash import rust, whole
from house import Door, Load, Options, Skip
from independent import sealed


class Slow:
    """Connections of one kind, opened a few at a time; `open` are those that are still there."""

    def __init__(self, door, context):
        self.door, self.context, self.open, self.failed = door, context, [], 0

    def bare(self, count, begin):
        for _ in range(count):
            connection = socket.socket()
            try:
                connection.connect(("127.0.0.1", self.door.port))
                if begin:
                    connection.send(begin)
                connection.setblocking(False)
                self.open.append(connection)
            except OSError:
                self.failed += 1
                connection.close()

    async def secured(self, count, host, begin):
        gate = asyncio.Semaphore(16)

        async def one():
            async with gate:
                try:
                    connection = await H1.open(self.door.port, host, self.context)
                    if begin:
                        connection.writer.write(begin)
                    self.open.append(connection)
                except Broken:
                    self.failed += 1

        await asyncio.gather(*(one() for _ in range(count)))

    def drip(self):
        """One byte more on each that takes bytes."""
        for connection in self.open:
            if isinstance(connection, H1) and not connection.writer.is_closing():
                connection.writer.write(b"x")

    def sweep(self):
        """How many are still there."""
        still = []
        for connection in self.open:
            if isinstance(connection, H1):
                gone = connection.reader.at_eof() or connection.writer.is_closing() or connection.reader.exception() is not None
                if gone:
                    connection.close()
                else:
                    still.append(connection)
                continue
            try:
                gone = connection.recv(1) == b""
            except BlockingIOError:
                gone = False
            except OSError:
                gone = True
            if gone:
                connection.close()
            else:
                still.append(connection)
        self.open = still
        return len(still)


async def f9(leg, folder):
    share = 10 if Options.short else 1
    asked = {"idle after TLS": 600, "a body of 1 B/s": 600, "half a head": 800, "half a ClientHello": 3000, "silent after TCP": 5000}
    total = sum(asked.values()) // share
    handles = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if handles < total + 1000:
        raise Skip(f"{handles} file handles at most, {total + 1000} are needed")
    # The first to come have to be there still when the last one is.
    door = Door(folder, leg.engine, limits={"DOORWARD__SERVER__LIMITS__KEEP_ALIVE": "20s"})
    try:
        door.start()
        door.login("alice", "carol")
        load = Load(door, rate=50, connections=4).start()
        await asyncio.sleep(2)

        def held():
            """Its handles but for those of its upstream, which has one for each."""
            return door.fds() - len(os.listdir(f"/proc/{door.upstream.process.pid}/fd"))

        base, base_held, base_rss = door.fds(), held(), door.rss()
        host, context = f"ops-api.{DOMAIN}", door.context("alice")
        head = f"POST /v1/deployments/staging HTTP/1.1\r\nhost: {host}:{door.port}\r\n".encode()
        begins = {"idle after TLS": None, "a body of 1 B/s": head + b"content-length: 100000\r\n\r\n", "half a head": head,
                  "half a ClientHello": b"\x16\x03\x01\x02\x00\x01\x00", "silent after TCP": None}
        kinds = {name: Slow(door, context) for name in asked}
        load.clear()
        began = time.monotonic()
        for name in ("idle after TLS", "a body of 1 B/s", "half a head"):
            await kinds[name].secured(asked[name] // share, host, begins[name])
        # The bare ones in slices, so that the good traffic of this very process goes on.
        for name in ("half a ClientHello", "silent after TCP"):
            for _ in range(asked[name] // share // 50):
                kinds[name].bare(50, begins[name])
                await asyncio.sleep(0.005)
        opened = sum(len(kind.open) for kind in kinds.values())
        leg.count(f"slow connections that were opened, in {time.monotonic() - began:.1f} s", opened, int(0.98 * total))
        began, peak_fds, peak_held, peak = time.monotonic(), 0, 0, 0
        while time.monotonic() - began < 40:
            peak_fds, peak_held, peak = max(peak_fds, door.fds()), max(peak_held, held() - base_held), max(peak, door.rss())
            await asyncio.sleep(1)
            kinds["half a head"].drip()
            kinds["a body of 1 B/s"].drip()
            if sum(kind.sweep() for kind in kinds.values()) == 0:
                break
        leg.count("of these held at the same time", peak_held, int(0.95 * total))
        leg.none("slow connections that no limit closed", [f"{n} {len(k.open)}" for n, k in kinds.items() if k.open])
        leg.at_most("closed within", time.monotonic() - began, 25)
        await asyncio.sleep(0.5)
        leg.note("file handles before, at most", f"{base}, {peak_fds}")
        leg.at_most("file handles above the base afterwards", door.fds() - base, 12, "", of_time=False)
        leg.at_most(f"memory at most (before: {base_rss:.0f} MiB)", peak, 600, "MiB", of_time=False)
        await load.stop()
        leg.count("good requests meanwhile", len(load.answered), 100)
        leg.none("good requests refused or broken", load.refused + load.broken)
        leg.at_most("their p99", percentile(load.seconds, 0.99) * 1000, 250, "ms")
        whole(leg, door)
    finally:
        door.close()


class Events:
    """A stream of server-sent events, over HTTP/2."""

    def __init__(self, connection, entry):
        self.connection, self.entry = connection, entry

    @classmethod
    async def open(cls, port, host, context):
        connection = await H2.open(port, host, context)
        _, entry = connection.begin("GET", "/events")
        status = (await entry["head"])[":status"]
        if status != "200":
            raise Broken(f"no stream of events: {status}")
        return cls(connection, entry)

    async def closed(self):
        """Returns when the other side has ended it."""
        try:
            await self.entry["done"]
        except Broken:
            pass

    def close(self):
        self.connection.close()


STREAMS = {"ws": Socket, "sse": Events}
SESSION_ENDED = (401, "session_ended")
# What has begun to be answered when its session ends is cut, like any stream; who comes again has to be told.
CUT = ("cut", None)


class Live:
    """A session with its connection: what it takes to see that it is over."""

    def __init__(self, session, kind, node, fate):
        self.session, self.kind, self.node, self.fate = session, kind, node, fate

    async def open(self):
        host = f"ops-api.{DOMAIN}"
        context = self.session.context(self.node.ca, ("h2",) if self.kind in ("h2", "sse") else ("http/1.1",))
        if self.kind in STREAMS:
            self.connection = await STREAMS[self.kind].open(self.node.port, host, context)
            if self.kind == "ws" and await self.connection.echo("here") != "here":
                raise Broken("no echo")
            return
        self.connection = await (H2 if self.kind == "h2" else H1).open(self.node.port, host, context)
        answer = await self.connection.ask("GET", "/echo/first")
        if answer.status != 200:
            raise Broken(f"the first request: {answer}")

    async def refused(self):
        """What the first request is told that does not pass."""
        try:
            while (answer := await self.connection.ask("GET", f"/echo/{self.kind}")).status == 200:
                await asyncio.sleep(0.05)
            return answer.status, answer.reason()
        except Broken:
            return CUT

    async def over(self):
        """The moment from which nothing passes any more, and (status, reason) of what was under way and of who comes again."""
        answers = []
        try:
            if self.kind in STREAMS:
                # A stream that is cut says nothing.
                await self.connection.closed()
            else:
                answers.append(await self.refused())
            moment = time.monotonic()
            again = await H1.open(self.node.port, f"ops-api.{DOMAIN}", self.session.context(self.node.ca))
            answer = await again.ask("GET", "/echo/again")
            again.close()
            return moment, [*answers, (answer.status, answer.reason())]
        except Broken as error:
            return time.monotonic(), [*answers, ("broken", str(error))]
        finally:
            self.connection.close()


async def ended(live, act):
    """(session, seconds from the act to its end, its answers) of each; both none of one that goes on."""
    watched = [asyncio.create_task(one.over()) for one in live]
    await asyncio.sleep(0.05)
    began = time.monotonic()
    await act()
    done, pending = await asyncio.wait(watched, timeout=30)
    for task in pending:
        task.cancel()
    rows = []
    for one, task in zip(live, watched):
        moment, answers = task.result() if task in done else (None, None)
        rows.append((one, moment and moment - began, answers))
    return rows


def judge(leg, what, rows, door, wanted):
    leg.none(f"{what}: went on, or was over before", [(one.kind, seconds) for one, seconds, _ in rows if seconds is None or seconds < 0])
    leg.none(f"{what}: refused other than as {' '.join(map(str, wanted))}",
             [(one.kind, answers) for one, _, answers in rows
              if answers and (answers[-1] != wanted or answers[0] not in (wanted, SESSION_ENDED, CUT))])
    leg.note(f"{what}: requests cut in the midst of their answer", sum(CUT in (answers or ()) for _, _, answers in rows))
    for own, limit, where in ((True, 1.0, "this node"), (False, 5.0, "another node")):
        for kinds, name in ((("h1", "h2"), "last answer"), (tuple(STREAMS), "cut of the stream")):
            seconds = [t for one, t, _ in rows if (one.node is door) == own and one.kind in kinds and t is not None]
            if seconds:
                leg.at_most(f"{what} to {name}, {len(seconds)}, {where}, p99", percentile(seconds, 0.99), limit)


async def f15(leg, folder):
    door = Door(folder, leg.engine)
    nodes = [door]
    try:
        door.start()
        door.login("alice", "carol")
        if leg.engine == "PostgreSQL":
            nodes.append(second(door))
        count = 48 if Options.short else 500
        signs, gate, live = SignIn(door, folder / "minted"), asyncio.Queue(), []
        for number in range(count):
            gate.put_nowait(number)

        async def mint():
            connection = await door.control_connection()
            while not gate.empty():
                number = gate.get_nowait()
                fate = ("lock", "revoke", "logout", "revoke", "logout", "revoke")[number % 6]
                session = await signs.mint("bob" if fate == "lock" else "alice", number, connection)
                # Every kind has every fate, on every node.
                one = Live(session, ("h1", "h2", "ws", "sse")[number // 6 % 4], nodes[number // 24 % len(nodes)], fate)
                await one.open()
                live.append(one)
            connection.close()

        began = time.monotonic()
        await asyncio.gather(*(mint() for _ in range(6)))
        kinds = ", ".join(f"{sum(one.kind == kind for one in live)} {kind}" for kind in ("h1", "h2", *STREAMS))
        leg.note(f"live sessions ({time.monotonic() - began:.0f} s to sign in)", kinds)
        fated = {fate: [one for one in live if one.fate == fate] for fate in ("revoke", "logout", "lock")}
        queue, rows = list(fated["revoke"]), []
        random.shuffle(queue)

        async def revoke():
            carol = await door.control_connection(door.context("carol"))

            async def call(one):
                answer = await post(carol, f"/api/v1/sessions/{one.session.id}/revoke", {"reason": "a fault"})
                if answer.status != 200:
                    raise Broken(f"revoking: {answer}")

            while queue:
                one = queue.pop()
                rows.extend(await ended([one], lambda: call(one)))
            carol.close()

        await asyncio.gather(*(revoke() for _ in range(4)))
        judge(leg, "a session revoked", rows, door, SESSION_ENDED)

        nobody, carol = await door.control_connection(), await door.control_connection(door.context("carol"))
        token = logout_token(door, "alice")

        async def logout():
            began = time.monotonic()
            answer = await log_out(nobody, token)
            leg.figure(f"the logout token is taken, in {time.monotonic() - began:.2f} s", answer.status, "200", answer.status == 200)

        rows = await ended(fated["logout"], logout)
        judge(leg, f"back-channel logout of {len(rows)}", rows, door, SESSION_ENDED)
        principal = fated["lock"][0].session.answer["session"]["principal"]["id"]

        async def lock():
            answer = await post(carol, "/api/v1/locks", {"principal": principal, "reason": "a fault"})
            leg.figure("the lock is taken", answer.status, "200 or 201", answer.status in (200, 201))

        rows = await ended(fated["lock"], lock)
        judge(leg, f"a lock of {len(rows)}", rows, door, (403, "locked"))
        nobody.close()
        carol.close()
        if len(nodes) > 1:
            nodes[1].stop()
        whole(leg, door)
    finally:
        for node in nodes:
            node.close()
    if leg.engine == "SQLite":
        rust(leg, "sign_in::a43_a_recheck_replaces_groups_and_ends_what_the_provider_refuses",
             "sign_in::a43_a_logout_at_the_provider_ends_the_sessions_that_rest_on_it_once",
             "session::a43_a_group_that_the_provider_took_away_is_gone_at_once",
             "door::streams::a28_a_session_that_ends_takes_its_streams_along")
    leg.table.add("F15", leg.engine, "SSH certificates, database roles, CAEP", "", "", "not built")


def point_of(key):
    """The point of a P-256 key's file, as a JWK has it."""
    der = subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-outform", "DER"], capture_output=True, check=True).stdout
    return sealed(der[-64:-32]), sealed(der[-32:])


def signed(key, head, claims):
    """A JWT of such a key (ES256)."""
    text = ".".join(sealed(json.dumps(part).encode()) for part in ({"alg": "ES256"} | head, claims))
    der = subprocess.run(["openssl", "dgst", "-sha256", "-sign", key], input=text.encode(), capture_output=True, check=True).stdout
    # RFC 7518 §3.4 wants the two numbers of the DER as 32 bytes each.
    numbers = der[4:4 + der[3]], der[6 + der[3]:]
    return f"{text}.{sealed(b''.join(number.lstrip(bytes(1)).rjust(32, bytes(1)) for number in numbers))}"


def logout_token(door, subject):
    """What the development provider, whose key lies in the installation, would send (OIDC Back-Channel Logout 1.0 §2.4)."""
    provider = tomllib.loads(door.config.read_text())["identity"]["provider"][0]
    with urllib.request.urlopen(f"{provider['issuer']}/jwks") as answer:
        kid = json.load(answer)["keys"][0]["kid"]
    return signed(door.dir / "keys" / "dev-provider.key", {"typ": "logout+jwt", "kid": kid},
                  {"iss": provider["issuer"], "aud": provider["client_id"], "iat": int(time.time()), "jti": os.urandom(8).hex(),
                   "sub": subject, "events": {"http://schemas.openid.net/event/backchannel-logout": {}}})


async def log_out(connection, token):
    return await connection.ask("POST", "/oauth2/backchannel_logout", [("content-type", "application/x-www-form-urlencoded")],
                                urllib.parse.urlencode({"logout_token": token}).encode())


def second(door):
    """Another node over the same database."""
    import copy
    import re
    import shutil

    from house import free_port

    other = copy.copy(door)
    other.folder, other.dir = door.folder / "second", door.folder / "second" / "door"
    other.folder.mkdir()
    shutil.copytree(door.dir, other.dir, ignore=shutil.ignore_patterns("node.id", "*.spool", "*.checkpoints", "dev.json", "breakglass.*"))
    other.config = other.dir / door.config.name
    port, telemetry = free_port(), free_port()
    text = re.sub(r'^listen = ".*:%d"' % door.port, f'listen = "127.0.0.1:{port}"', other.config.read_text(), flags=re.M)
    text = text.replace(door.telemetry.split("//")[1], f"127.0.0.1:{telemetry}")
    other.config.write_text(text)
    other.port, other.telemetry, other.process, other.created = port, f"http://127.0.0.1:{telemetry}", None, None
    other.control = f"https://{DOMAIN}:{port}"
    other.start()
    return other
