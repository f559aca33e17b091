"""F4, F5 and F8: what the gateway rests on goes away: database, provider, upstream."""

import asyncio
import collections
import json
import os
import re
import signal
import socket
import subprocess
import time

from caller import Broken, SignIn, percentile
from crash import rust, whole
from house import Cluster, Door, Load, Options, Upstream, end, find, free_port, path_of, sql
from tls_upstream import NAME, TlsUpstreams


async def f4(leg, folder):
    cluster = Cluster(folder / "pg", connections=100)
    # A role of its own, whose connections can be taken away.
    sql(cluster.url, "create role door login")
    sql(cluster.url, "create database door owner door")
    door = Door(folder / "house", leg.engine, database=cluster.url.replace("postgres@", "door@").replace("/postgres", "/door"))
    try:
        door.start()
        door.login("alice", "bob", "carol")
        request = door.read("request", "ops-api/deploy-prod", "--reason", "a fault", "--ticket", "OPS-1", "--for", "10m", profile="alice")
        door.cli("approve", request["id"], profile="bob")
        load = Load(door, rate=50, connections=4).start()
        granted, refused_as, back = [], [], []
        alice = await door.connect("alice")

        async def use():
            while not load.over:
                granted.append((await alice.ask("POST", "/v1/deployments/prod", body=b"")).status)
                await asyncio.sleep(0.1)

        async def api():
            connection = await door.control_connection(door.context("alice"))
            try:
                return await connection.ask("GET", "/api/v1/requests")
            finally:
                connection.close()

        async def again():
            began = time.monotonic()
            while time.monotonic() - began < 30:
                if (await api()).status == 200:
                    return time.monotonic() - began
                await asyncio.sleep(0.05)
            return None

        using = asyncio.create_task(use())
        for _ in range(2 if Options.short else 5):
            await asyncio.to_thread(cluster.stop)
            answer = await api()
            refused_as.append((answer.status, "retry-after" in answer.headers))
            await asyncio.sleep(1)
            await asyncio.to_thread(cluster.start)
            back.append(await again())
        leg.none("control API, database stopped: other than 503 with Retry-After", [a for a in refused_as if a != (503, True)])
        leg.at_most("control API answers again, slowest", None if None in back else max(back), 5.0)

        # Every connection is in somebody else's hands: none is left for us.
        sql(cluster.url, "alter role door connection limit 0")
        kick = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'door'"
        for _ in range(3):
            sql(cluster.url, kick)
            await asyncio.sleep(0.2)
        before, began = len(load.answered), time.monotonic()
        answer = await api()
        leg.figure("control API with no connection to be had", f"{answer.status} after {time.monotonic() - began:.1f} s",
                   "503 with Retry-After", answer.status == 503 and "retry-after" in answer.headers)
        await asyncio.sleep(3)
        leg.count("requests that passed meanwhile", len(load.answered) - before, 20)
        sql(cluster.url, "alter role door connection limit -1")
        leg.at_most("control API once there are some again", await again(), 5.0)
        await asyncio.sleep(1)
        await load.stop()
        await using
        alice.close()
        leg.none("requests refused or broken", load.refused + load.broken)
        leg.none("requests with a live grant that got no 200", [status for status in granted if status != 200])
        leg.count("requests with a live grant", len(granted), 20)
        seconds = collections.Counter(re.findall(r"^(\S+ \d\d:\d\d:\d\d)\S* .*connection received", cluster.log(), re.M))
        # What this leg itself opens is in there too.
        leg.at_most("connections to the database in the busiest second", max(seconds.values(), default=0), 60, "", of_time=False)
        whole(leg, door)
    finally:
        door.close()
        cluster.close()


async def f5(leg, folder):
    door = Door(folder, leg.engine)
    try:
        door.start()
        door.login("alice", "carol")
        load = Load(door, rate=50, connections=4).start()

        def sign_in():
            began = time.monotonic()
            try:
                code = door.cli("login", "--as", "bob", "--provider", "dev", profile="bob", check=False).returncode
            except subprocess.TimeoutExpired:
                code = None
            return code, time.monotonic() - began

        # It takes connections and never answers, just when the gateway turns to it.
        signs, stopped = SignIn(door, folder / "minted"), []

        def stop():
            door.parts.send_signal(signal.SIGSTOP)
            stopped.append(time.monotonic())

        try:
            await signs.code("bob", before_callback=stop)
            told = "signed in"
        except Broken as error:
            told = str(error)
        leg.at_most(f"the gateway gives up a provider that hangs ({told[-40:]})", time.monotonic() - stopped[0] if "50" in told else None, 12.0)
        code, seconds = await asyncio.to_thread(sign_in)
        leg.at_most(f"sign-in with a provider that hangs ends (exit {code})", seconds if code else None, 35.0)
        door.parts.send_signal(signal.SIGCONT)
        began = time.monotonic()
        while (await asyncio.to_thread(sign_in))[0] != 0 and time.monotonic() - began < 60:
            await asyncio.sleep(0.5)
        leg.at_most("sign-in once it answers again", time.monotonic() - began, 35.0)
        end(door.parts, signal.SIGKILL)
        code, seconds = await asyncio.to_thread(sign_in)
        leg.at_most(f"sign-in with a provider that is gone ends (exit {code})", seconds if code else None, 5.0)
        await load.stop()
        leg.count("requests of live sessions meanwhile", len(load.answered), 50)
        leg.none("of these refused or broken", load.refused + load.broken)
        whole(leg, door)
    finally:
        door.close()
    rust(leg, "provider::a_provider_that_is_down_says_so_and_is_not_beaten",
         "provider::a36_keys_come_from_the_issuer_alone_and_unknown_ones_cause_one_fetch_in_thirty_seconds",
         "provider::a_rotated_key_is_taken_within_a_minute_and_old_keys_live_on_while_the_provider_is_away",
         "worst_day::a59_with_provider_and_database_stopped_three_of_five_open_and_all_of_it_is_on_record")


# A service's own clocks, short enough to be seen in a minute.
CONNECT, FIRST_BYTE = 1, 2
# What F8 gives a breaker to open, and how long the gateway leaves alone what it could not reach.
OPEN, REST = 5, 5
CHECK = "/healthz"
HEALTH = f'\n[health]\npath = "{CHECK}"\ninterval = "1s"\nunhealthy_threshold = 2\n'


class Hole:
    """A port that takes no connection and refuses none, as one behind a filter: its queue is full."""

    def __init__(self, port=0):
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", port))
        self.listener.listen(0)
        self.port = self.listener.getsockname()[1]
        self.queue = [socket.socket() for _ in range(4)]
        for waiting in self.queue:
            waiting.setblocking(False)
            waiting.connect_ex(self.listener.getsockname())

    def close(self):
        for each in (*self.queue, self.listener):
            each.close()


async def f8(leg, folder):
    folder.mkdir(parents=True, exist_ok=True)
    others = bad, spare, half = [Upstream(folder, name) for name in ("bad", "spare", "half")]
    door, hole = Door(folder, leg.engine), Hole()
    try:
        add_service(door, "flapping", [bad.port])
        add_service(door, "refusing", [free_port(), spare.port])
        add_service(door, "hanging", [hole.port, spare.port])
        add_service(door, "silent", [half.port, spare.port], HEALTH)
        tls = TlsUpstreams(folder / "tls")
        for name, port in (await tls.open()).items():
            add_service(door, name, [port], tls.settings, "https")
        door.start()
        door.login("alice", "carol")
        good = Load(door, rate=100, connections=4).start()
        await asyncio.sleep(2 if Options.short else 4)
        base = percentile(good.seconds, 0.99)
        good.clear()
        bodies = await flap(leg, door, bad) + await one_of_two(leg, door, half) + await tls.judge(leg, door)
        await good.stop()
        # Not reached, too slow, no HTTP; a body that is cut has none of ours after it.
        leg.count(f"different ones among {len(bodies)} error bodies", len({json.loads(body)["detail"] for body in bodies}), 3)
        ports = [f":{port}" for port in (hole.port, *(upstream.port for upstream in others))]
        traces = [trace.encode() for trace in ("127.0.0.1", "half of it", "this is no HTTP", NAME, *ports)]
        leg.none("of these that name the upstream", [body for body in bodies if any(trace in body for trace in traces)])
        served = [(method, path) for upstream in others for _, method, path in upstream.served()]
        twice = collections.Counter(path for method, path in served if method == "POST")
        leg.none("POSTs that were sent twice", [path for path, count in twice.items() if count > 1])
        leg.none("other services: refused or broken", good.refused + good.broken)
        # On a machine with other work, a base of some milliseconds says nothing twice.
        limit = max(2 * base, base + 0.05)
        leg.at_most(f"other services' p99 (base {base * 1000:.0f} ms)", percentile(good.seconds, 0.99) * 1000, limit * 1000, "ms")
        events = whole(leg, door)
        allowed = {path_of(event) for event in events if event["type"] == "decision.allow"}
        leg.none("served by the bad upstreams without a record", {path for _, path in served} - allowed - {CHECK})
        ended = [find(event, "status") for event in events if event["type"] == "exchange.ended"]
        leg.note("outcomes on record of what was passed on", dict(collections.Counter(map(str, ended)).most_common(5)))
    finally:
        for upstream in others:
            upstream.stop()
        hole.close()
        door.close()


def add_service(door, name, ports, more="", scheme="http"):
    """One beside the examples."""
    folder = door.policies() / name
    folder.mkdir()
    upstreams = ", ".join(f'"{scheme}://127.0.0.1:{port}"' for port in ports)
    (folder / "service.toml").write_text(
        f'upstreams = [{upstreams}]\n\n[[route]]\nmatch = "GET|POST /echo/**"\naction = "echo"\n'
        f'\n[timeouts]\nconnect = "{CONNECT}s"\nfirst_byte = "{FIRST_BYTE}s"\nbody_idle = "2s"\n'
        f"\n[limits]\nrequests_per_second = 1000000\nburst = 1000000\n{more}")
    (folder / "access.cedar").write_text('@id("faults")\npermit (principal in Group::"engineering", action == Action::"echo", resource);\n')


def taken(load):
    """What was refused up to now; the load is counted anew from here."""
    refused = load.refused
    load.clear()
    return refused


def slowest(refused):
    """How long it took to be told, but for one in twenty."""
    return percentile([seconds for *_, seconds, _ in refused], 0.95)


async def flap(leg, door, bad):
    """The only upstream of a service in each of its moods. The bodies of what was refused."""
    load = Load(door, rate=40, connections=8, service="flapping", method="POST", prefix="p").start()
    span = 0.8 if Options.short else 2.5
    for mode in ("cut", "silent", "slow", "bad"):
        bad.mode(mode)
        await asyncio.sleep(span)
    bad.stop()  # connections are refused
    await asyncio.sleep(span)
    told = taken(load)
    await asyncio.sleep(2)
    gone = taken(load)
    leg.at_most("a service's only upstream refuses connections: told within", slowest(gone), 1.0)
    hole = Hole(bad.port)
    await asyncio.sleep(CONNECT + 0.5)
    told += taken(load)
    await asyncio.sleep(2)
    hanging = taken(load)
    hole.close()
    leg.at_most("it takes no connections: told within", slowest(hanging), CONNECT + 0.5)
    # One request tries it anew every now and then; the others are told at once.
    quick = sum(seconds < CONNECT / 2 for *_, seconds, _ in hanging)
    leg.count(f"told without waiting for it, of {len(hanging)}", quick, max(len(hanging) // 2, 1))
    bad.start()
    bad.mode("ok")
    before, began = len(load.answered), time.monotonic()
    while len(load.answered) == before and time.monotonic() - began < 20:
        await asyncio.sleep(0.02)
    leg.at_most("an upstream that is back is used again within", time.monotonic() - began, 5.5)
    await load.stop()
    return [body for *_, body in told + gone + hanging + load.refused]


async def one_of_two(leg, door, half):
    """Services with two upstreams of which the first is dead, each in its own way, and for one from some
    moment on. The bodies of what was refused."""
    refusing, hanging, silent = loads = [Load(door, rate=40, connections=8, service=name, method="POST", prefix=name).start()
                                         for name in ("refusing", "hanging", "silent")]
    await asyncio.sleep(1)
    half.mode("silent")
    died = time.time()
    # Who was sent there at the last moment has been told by then.
    await asyncio.sleep(OPEN + FIRST_BYTE + 0.5)
    told = taken(silent)
    hanging.seconds, span = [], 10
    await asyncio.sleep(span)
    for load in loads:
        await load.stop()
    leg.none("one of two upstreams refuses or takes no connections: refused or broken",
             [row for load in (refusing, hanging) for row in load.refused + load.broken])
    leg.at_most("one refuses connections: p99 of its service", percentile(refusing.seconds, 0.99), CONNECT / 2)
    # Each thread may find out with one request whether it is back.
    threads = len(os.sched_getaffinity(0))
    leg.at_most(f"one takes no connections: waited for it after {OPEN} s, of {len(hanging.seconds)} requests",
                sum(seconds > CONNECT / 2 for seconds in hanging.seconds), threads * (span // REST + 1), "", of_time=False)
    last = max(at for at, _, path in half.served() if path != CHECK) / 1000
    leg.at_most("one is silent (checked each second, out after two): given requests for", last - died, OPEN)
    leg.count("of its service refused before", len(told), 1)
    leg.none("of its service refused, broken or late after", silent.refused + silent.broken + [s for s in silent.seconds if s > CONNECT / 2])
    return [body for *_, body in told + silent.refused]
