"""F9 and F15: thousands of connections that send next to nothing; hundreds of sessions that are ended."""

import asyncio
import random
import socket
import time

from caller import DOMAIN, H1, H2, Broken, SignIn, Socket, percentile, post
from crash import rust, whole
from house import Door, Load, Options


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
    door = Door(folder, leg.engine, limits={"DOORWARD__SERVER__LIMITS__KEEP_ALIVE": "10s"})
    try:
        door.start()
        door.login("alice", "carol")
        load = Load(door, rate=50, connections=4).start()
        await asyncio.sleep(2)
        base, base_rss = door.fds(), door.rss()
        share = 10 if Options.short else 1
        host = f"ops-api.{DOMAIN}"
        head = f"POST /v1/deployments/staging HTTP/1.1\r\nhost: {host}:{door.port}\r\n".encode()
        kinds = {"silent after TCP": Slow(door, None), "half a ClientHello": Slow(door, None),
                 "half a head": Slow(door, door.context("alice")), "a body of 1 B/s": Slow(door, door.context("alice")),
                 "idle after TLS": Slow(door, door.context("alice"))}
        load.clear()
        asked = {"silent after TCP": 5000, "half a ClientHello": 3000, "half a head": 800, "a body of 1 B/s": 600, "idle after TLS": 600}
        # The bare ones in slices, so that the good traffic of this very process goes on.
        for name, begin in (("silent after TCP", None), ("half a ClientHello", b"\x16\x03\x01\x02\x00\x01\x00")):
            for _ in range(asked[name] // share // 50):
                kinds[name].bare(50, begin)
                await asyncio.sleep(0.005)
        begins = {"half a head": head, "a body of 1 B/s": head + b"content-length: 100000\r\n\r\n", "idle after TLS": None}
        for name, begin in begins.items():
            await kinds[name].secured(asked[name] // share, host, begin)
        opened = sum(len(kind.open) for kind in kinds.values())
        peak_fds, peak = door.fds(), door.rss()
        leg.count("slow connections that were opened", opened, int(0.98 * sum(asked.values()) / share))
        began = time.monotonic()
        while time.monotonic() - began < 40:
            await asyncio.sleep(1)
            kinds["half a head"].drip()
            kinds["a body of 1 B/s"].drip()
            peak_fds, peak = max(peak_fds, door.fds()), max(peak, door.rss())
            if sum(kind.sweep() for kind in kinds.values()) == 0:
                break
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


class Live:
    """A session with its connection: what it takes to see that it is over."""

    def __init__(self, session, kind, node):
        self.session, self.kind, self.node, self.connection = session, kind, node, None

    async def open(self, ca):
        host = f"ops-api.{DOMAIN}"
        context = self.session.context(ca, ("h2",) if self.kind == "h2" else ("http/1.1",))
        if self.kind == "ws":
            self.connection = await Socket.open(self.node.port, host, context)
            if await self.connection.echo("here") != "here":
                raise Broken("no echo")
            return
        self.connection = await (H2 if self.kind == "h2" else H1).open(self.node.port, host, context)
        answer = await self.connection.ask("GET", "/echo/first")
        if answer.status != 200:
            raise Broken(f"the first request: {answer}")

    async def over(self):
        """Returns when nothing passes any more."""
        if self.kind == "ws":
            return await self.connection.closed()
        try:
            while (await self.connection.ask("GET", f"/echo/{self.kind}")).status == 200:
                await asyncio.sleep(0.02)
        except Broken:
            pass


async def f15(leg, folder):
    door = Door(folder, leg.engine)
    nodes = [door]
    try:
        door.start()
        door.login("alice", "carol")
        if leg.engine == "PostgreSQL":
            nodes.append(second(door))
        count = 48 if Options.short else 500
        signs, gate = SignIn(door, folder / "minted"), asyncio.Queue()
        for number in range(count):
            gate.put_nowait(number)
        live = []

        async def mint():
            connection = await door.control_connection()
            while not gate.empty():
                number = gate.get_nowait()
                who = "bob" if number % 6 == 0 else "alice"
                session = await signs.mint(who, number, connection)
                one = Live(session, ("h1", "h2", "ws")[number % 3 if number % 5 else 0], nodes[number % len(nodes)])
                one.who = who
                await one.open(door.ca)
                live.append(one)
            connection.close()

        began = time.monotonic()
        await asyncio.gather(*(mint() for _ in range(6)))
        kinds = ", ".join(f"{sum(one.kind == kind for one in live)} {kind}" for kind in ("h1", "h2", "ws"))
        leg.note(f"live sessions ({time.monotonic() - began:.0f} s to sign in)", kinds)
        taken = {True: [], False: []}
        queue = [one for one in live if one.who == "alice"]
        random.shuffle(queue)

        async def revoke():
            carol = await door.control_connection(door.context("carol"))
            while queue:
                one = queue.pop()
                ended = asyncio.create_task(one.over())
                await asyncio.sleep(0.02)
                began = time.monotonic()
                answer = await post(carol, f"/api/v1/sessions/{one.session.id}/revoke", {"reason": "a fault"})
                if answer.status != 200:
                    raise Broken(f"revoking: {answer}")
                try:
                    await asyncio.wait_for(ended, 30)
                    taken[one.node is door].append(time.monotonic() - began)
                except asyncio.TimeoutError:
                    taken[one.node is door].append(None)
                one.connection.close()
            carol.close()

        await asyncio.gather(*(revoke() for _ in range(4)))
        for own, limit, name in ((True, 1.0, "this node"), (False, 5.0, "another node")):
            if taken[own]:
                leg.none(f"sessions that went on after their end, {name}", [t for t in taken[own] if t is None])
                seconds = [t for t in taken[own] if t is not None]
                leg.at_most(f"from the call to the last answer, {len(seconds)} sessions, {name}, p99", percentile(seconds, 0.99), limit)
        # A lock: everything of one person at once.
        rest = [one for one in live if one.who == "bob"]
        principal = rest[0].session.answer["session"]["principal"]["id"]
        carol = await door.control_connection(door.context("carol"))
        ended = [asyncio.create_task(one.over()) for one in rest]
        await asyncio.sleep(0.05)
        began = time.monotonic()
        answer = await post(carol, "/api/v1/locks", {"principal": principal, "reason": "a fault"})
        done, pending = await asyncio.wait(ended, timeout=30)
        took = time.monotonic() - began
        leg.figure("the lock is taken", answer.status, "200 or 201", answer.status in (200, 201))
        leg.none("sessions of a locked person that go on", pending)
        leg.at_most(f"a lock ends all {len(rest)} of one person within", took, 5.0 if len(nodes) > 1 else 1.0)
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


def second(door):
    """Another node over the same database."""
    import copy
    import re
    import shutil

    from house import free_port

    other = copy.copy(door)
    other.folder, other.dir = door.folder / "second", door.folder / "second" / "door"
    other.folder.mkdir()
    shutil.copytree(door.dir, other.dir, ignore=shutil.ignore_patterns("node.id", "*.spool", "*.checkpoints", "dev.json"))
    other.config = other.dir / door.config.name
    port, telemetry = free_port(), free_port()
    text = re.sub(r'^listen = ".*:%d"' % door.port, f'listen = "127.0.0.1:{port}"', other.config.read_text(), flags=re.M)
    text = text.replace(door.telemetry.split("//")[1], f"127.0.0.1:{telemetry}")
    other.config.write_text(text)
    other.port, other.telemetry, other.process, other.created = port, f"http://127.0.0.1:{telemetry}", None, None
    other.control = f"https://{DOMAIN}:{port}"
    other.start()
    return other
