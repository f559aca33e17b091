"""F7: the wall clock jumps, by libfaketime; the monotonic one goes on.

What must be refused is asked for on a connection that was open before the jump: it could be refused
by anything else on one that can't be opened.
"""

import asyncio
import json
import re
import time
from datetime import datetime, timezone
from pathlib import Path

from caller import Broken, post, times
from crash import whole
from house import Door, Load, Options, Skip, find

# A larger difference is a step, a smaller one drift (`STEP_MIN` in src/model/clock_watch.rs).
STEP_MIN = 5
# libfaketime looks at its file once a second, the gateway at its clocks each half.
SEEN_AFTER = 2.5
DEPLOY, ECHO = ("POST", "/v1/deployments/prod"), ("GET", "/echo/clock")


def library():
    for found in sorted(Path("/usr/lib").glob("**/faketime/libfaketimeMT.so.1")):
        return found
    raise Skip("libfaketime is not installed (Debian: libfaketime)")


class Watch:
    """Who is told of steps at once, by a webhook: direction and seconds of each."""

    secret = {"WATCH_SECRET": "whsec_" + "A" * 43 + "="}

    def __init__(self):
        self.told = {}

    async def start(self):
        """Listens; the settings that lead there."""
        server = await asyncio.start_server(self.take, "127.0.0.1", 0)
        return (f'\n[[notify.webhook]]\nname = "watch"\nurl = "http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"\n'
                'allow_loopback = true\nsecret = { env = "WATCH_SECRET" }\nevents = ["clock.stepped"]\n')

    async def take(self, reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        data = json.loads(await reader.readexactly(int(re.search(rb"content-length: (\d+)", head.lower())[1])))["data"]
        # The record tells of it once more, as the same event.
        self.told[data["event"]] = (data["direction"], data["step_millis"] / 1000)
        writer.write(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
        writer.close()


def among(step, seen):
    """Whether a step is one of those; both clocks are looked at a little later than it is made."""
    return any(way == step[0] and abs(size - step[1]) < 1 for way, size in seen)


class Clock:
    """The offset that one process lives in, and the steps that it should have told of."""

    def __init__(self, door, watch):
        self.file, self.watch, self.steps, self.silent = door.folder / "clock", watch, [], []
        self.set(0)
        door.extra = {"LD_PRELOAD": str(library()), "FAKETIME_TIMESTAMP_FILE": str(self.file), "FAKETIME_CACHE_DURATION": "1",
                      "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}

    def set(self, seconds):
        self.offset = seconds
        fresh = self.file.with_suffix(".new")
        fresh.write_text(f"{seconds:+d}\n")
        fresh.rename(self.file)

    async def step(self, seconds):
        by, known = seconds - self.offset, set(self.watch.told)
        self.set(seconds)
        await asyncio.sleep(SEEN_AFTER)
        if abs(by) > STEP_MIN:
            step = ("forward" if by > 0 else "back", abs(by))
            self.steps.append(step)
            if not among(step, [told for event, told in self.watch.told.items() if event not in known]):
                self.silent.append(step)


class Scene:
    """A door whose clock steps, alice's connection to it, and what she was granted."""

    def __init__(self, leg, door, clock):
        self.leg, self.door, self.clock, self.grants = leg, door, clock, {}

    async def restart(self, seconds=0):
        """Starts it anew with its clock there, which it then believes, and opens the connection anew."""
        self.connection.close()
        await asyncio.to_thread(self.door.stop)
        self.clock.set(seconds)
        await asyncio.to_thread(self.door.start)
        self.connection = await self.door.connect("alice")

    def granted(self, seconds):
        request = self.door.read("request", "ops-api/deploy-prod", "--reason", "a fault", "--ticket", "OPS-1", "--for", f"{seconds}s",
                                 profile="alice")
        grant = self.door.read("approve", request["id"], profile="bob")["grant"]
        self.grants[grant] = seconds
        return grant

    async def control(self, path, body=None, name="alice"):
        connection = await self.door.control_connection(self.door.context(name))
        try:
            return await (connection.ask("GET", path) if body is None else post(connection, path, body))
        finally:
            connection.close()

    async def grant(self, grant):
        return (await self.control(f"/api/v1/grants/{grant}")).json()

    async def ask(self, request=DEPLOY):
        """What she gets on the open connection: a status, and why if it is a refusal."""
        try:
            answer = await self.connection.ask(*request, body=b"" if request[0] == "POST" else None)
        except Broken as error:
            return f"no answer: {error}"
        return f"{answer.status} {answer.reason() or ''}".strip()

    async def gets(self, what, expected, request=DEPLOY):
        seen = await self.ask(request)
        self.leg.figure(what, seen, expected, seen == expected)

    async def state(self, what, grant, expected):
        seen = (await self.grant(grant)).get("state")
        self.leg.figure(what, seen, expected, seen == expected)


OVER, UNPROVEN = "403 no_policy_match", "401 bad_credential"


async def f7(leg, folder):
    watch = Watch()
    door = Door(folder, leg.engine, limits=watch.secret, settings=await watch.start())
    try:
        scene = Scene(leg, door, Clock(door, watch))
        door.start()
        door.login("alice", "bob", "carol")
        scene.connection = await door.connect("alice")
        await hour_back(scene)
        await scene.restart()
        grant = await minutes_forward(scene)
        if not Options.short:
            await minutes_believed(scene, grant)
        await days_forward(scene)
        await begin_again(scene, grant)
        await small_steps(scene)
        lengths = {}
        for grant in scene.grants:
            told = await scene.grant(grant)
            lengths[grant] = (times(told["expires_at"]) - times(told["active_at"])) / 1000
        leg.none(f"{len(lengths)} grants, of which not as long as was asked", lengths.items() - scene.grants.items())
        leg.none(f"{len(scene.clock.steps)} steps, of which a webhook was not told within {SEEN_AFTER} s", scene.clock.silent)
        stepped = [(find(event, "direction"), find(event, "step_millis") / 1000)
                   for event in whole(leg, door) if event["type"] == "clock.stepped"]
        leg.none("of which not on record (clock.stepped)", [step for step in scene.clock.steps if not among(step, stepped)])
    finally:
        door.close()


async def hour_back(scene):
    grant = scene.granted(8)
    await scene.gets("a grant of 8 s, used", "200")
    ends = times((await scene.grant(grant))["expires_at"])
    await scene.clock.step(-3600)
    await scene.gets("an hour back: it goes on", "200")
    asked = {"entitlement": "ops-api/deploy-prod", "reason": "a fault", "ticket": "OPS-1", "for": "10m"}
    request = (await scene.control("/api/v1/requests", asked)).json()["id"]
    answer = await scene.control(f"/api/v1/requests/{request}/approvals", {"answer": "approve"}, "bob")
    seen = f"{answer.status} {answer.reason()}"
    scene.leg.figure("an hour back: a new grant is refused", seen, "503 clock_stepped", seen == "503 clock_stepped")
    while (seen := await scene.ask()) == "200" and time.time() * 1000 < ends + 10_000:
        await asyncio.sleep(0.05)
    late = time.time() - ends / 1000
    scene.leg.figure("an hour back: the grant ends at its time", f"{late:+.2f} s", "-0.2 to +1 s", -0.2 <= late <= 1)
    scene.leg.figure("an hour back: and its use is refused", seen, OVER, seen == OVER)
    await scene.state("an hour back: and is kept as over", grant, "expired")
    await scene.gets("an hour back: sessions pass", "200", ECHO)
    await scene.clock.step(0)
    await scene.gets("and forward to the present: the grant stays over", OVER)
    await scene.gets("and forward to the present: sessions pass", "200", ECHO)


async def minutes_forward(scene):
    grant = scene.granted(600)
    await scene.gets("a grant of 10 min, used", "200")
    await scene.clock.step(660)
    await scene.gets("11 min forward: the grant is over", OVER)
    await scene.state("11 min forward: and is shown as over", grant, "expired")
    await scene.gets("11 min forward: sessions pass", "200", ECHO)
    await scene.clock.step(0)
    await scene.gets("11 min back: what was over stays over", OVER)
    # A step forward that is taken back within a minute was never believed: nobody else was told.
    await scene.state("11 min back: its state in the database", grant, "active")
    return grant


async def minutes_believed(scene, grant):
    await scene.restart(660)
    await scene.gets("started 11 min ahead: the grant is over", OVER)
    await scene.clock.step(0)
    await scene.gets("and back: it stays over", OVER)
    await scene.state("and back: and is kept as over", grant, "expired")
    await scene.gets("and back: sessions pass", "200", ECHO)


async def days_forward(scene):
    leg, door = scene.leg, scene.door
    cpu, at = door.cpu(), time.monotonic()
    await scene.clock.step(10 * 86400)
    await asyncio.sleep(2)
    leg.at_most("10 days forward: CPU afterwards, no storm of renewals", (door.cpu() - cpu) / (time.monotonic() - at), 0.5, "cpu")
    await scene.gets("10 days forward: certificates are over", UNPROVEN, ECHO)
    leg.figure("10 days forward: the process lives", door.process.poll() is None, "True", door.process.poll() is None)
    await scene.clock.step(0)
    await scene.gets("10 days back: the grant of before stays over", OVER)


async def begin_again(scene, grant):
    """The node goes on by the time that it had. The runbook's way back: say since when clocks are right,
    and start it anew."""
    since = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    text = scene.door.config.read_text()
    scene.door.config.write_text(text.replace("[server]\n", f'[server]\nclock_right_since = "{since}"\n', 1))
    await scene.restart()
    scene.door.login("alice", "bob", "carol")
    scene.connection = await scene.door.connect("alice")
    await scene.gets("clock_right_since: who signs in anew passes", "200", ECHO)
    if not Options.short:
        await scene.state("clock_right_since: what was believed to be over is kept as over", grant, "expired")
        await scene.gets("clock_right_since: and can't be used", OVER)
    scene.granted(120)
    await scene.gets("clock_right_since: a new grant, used", "200")


async def small_steps(scene):
    load = Load(scene.door, rate=50, connections=4).start()
    await asyncio.sleep(1)
    for offset in (STEP_MIN, 0) if Options.short else (STEP_MIN, 0, -STEP_MIN, 0):
        await scene.clock.step(offset)
    await load.stop()
    scene.leg.count(f"steps of {STEP_MIN} s under load: requests", len(load.answered), 50)
    scene.leg.none(f"steps of {STEP_MIN} s under load: refused or broken", load.refused + load.broken)
    await scene.gets(f"steps of {STEP_MIN} s: the grant of 2 min goes on", "200")
