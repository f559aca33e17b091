"""F4, F5 and F8: what the gateway rests on goes away: database, provider, upstream."""

import asyncio
import collections
import re
import signal
import subprocess
import time

from caller import Broken, SignIn, percentile
from crash import rust, whole
from house import Cluster, Door, Load, Options, Upstream, end, find, sql


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


async def f8(leg, folder):
    bad = Upstream(folder_made(folder), "bad")
    door = Door(folder, leg.engine)
    try:
        door.steady("metrics", bad.port)
        # Its own clocks, short enough to be seen in a minute.
        path = door.policies() / "metrics" / "service.toml"
        path.write_text(re.sub(r"\[timeouts\]\n(?:[^\[\n].*\n|\n)*", "", path.read_text())
                        + "\n[timeouts]\nconnect = \"1s\"\nfirst_byte = \"2s\"\nbody_idle = \"2s\"\n"
                        "\n[[route]]\nmatch = \"GET|POST /echo/**\"\naction = \"echo\"\n")
        (door.policies() / "metrics" / "access.cedar").open("a").write(
            '\n@id("faults")\npermit (principal in Group::"engineering", action == Action::"echo", resource);\n')
        door.start()
        door.login("alice", "carol")
        good = Load(door, rate=100, connections=4).start()
        await asyncio.sleep(2 if Options.short else 4)
        base = percentile(good.seconds, 0.99)
        good.clear()
        flapping = Load(door, rate=40, connections=8, service="metrics", method="POST", prefix="p").start()
        span = 0.8 if Options.short else 2.5
        for mode in ("cut", "silent", "slow", "bad"):
            bad.mode(mode)
            await asyncio.sleep(span)
        bad.stop()  # connections are refused
        await asyncio.sleep(span)
        flapping.clear()
        await asyncio.sleep(2)
        late = percentile([seconds for *_, seconds, _ in flapping.refused], 0.95)
        leg.at_most("an upstream that is gone is told within", late, 1.0)
        bodies = {body for *_, body in flapping.refused}
        bad.start()
        bad.mode("ok")
        before, began = len(flapping.answered), time.monotonic()
        while len(flapping.answered) == before and time.monotonic() - began < 20:
            await asyncio.sleep(0.02)
        leg.at_most("an upstream that is back is used again within", time.monotonic() - began, 5.5)
        await flapping.stop()
        await good.stop()
        bodies |= {body for *_, body in flapping.refused}
        leg.none("error bodies that name the upstream", [b for b in bodies if str(bad.port).encode() in b or b"half of it" in b])
        twice = collections.Counter(path for _, method, path in bad.served() if method == "POST")
        leg.none("POSTs that were sent twice", [path for path, count in twice.items() if count > 1])
        leg.none("other services: refused or broken", good.refused + good.broken)
        # On a machine with other work, a base of some milliseconds says nothing twice.
        limit = max(2 * base, base + 0.05)
        leg.at_most(f"other services' p99 (base {base * 1000:.0f} ms)", percentile(good.seconds, 0.99) * 1000, limit * 1000, "ms")
        events = whole_of(leg, door, bad)
        ended = [find(event, "status") for event in events if event["type"] == "exchange.ended"]
        leg.note("outcomes on record of what was passed on", dict(collections.Counter(map(str, ended)).most_common(5)))
    finally:
        bad.stop()
        door.close()


def folder_made(folder):
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def whole_of(leg, door, other):
    """As `whole`, with a second upstream's truth."""
    events = whole(leg, door)
    from house import path_of

    allowed = {path_of(event) for event in events if event["type"] == "decision.allow"}
    leg.none("served by the bad upstream without a record", {path for _, _, path in other.served()} - allowed)
    return events
