"""F7: the wall clock jumps, by libfaketime; the monotonic one goes on."""

import asyncio
import json
import time
from datetime import datetime, timezone
from pathlib import Path

from caller import Broken
from crash import whole
from house import Door, Load, Options, Skip


def library():
    for found in sorted(Path("/usr/lib").glob("**/faketime/libfaketimeMT.so.1")):
        return found
    raise Skip("libfaketime is not installed (Debian: libfaketime)")


class Clock:
    """The offset that one process lives in."""

    def __init__(self, door):
        self.file, self.offset = door.folder / "clock", 0
        self.set(0)
        door.extra = {"LD_PRELOAD": str(library()), "FAKETIME_TIMESTAMP_FILE": str(self.file), "FAKETIME_CACHE_DURATION": "1",
                      "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}

    def set(self, seconds):
        self.offset = seconds
        fresh = self.file.with_suffix(".new")
        fresh.write_text(f"{seconds:+d}\n")
        fresh.rename(self.file)

    async def step(self, seconds):
        self.set(seconds)
        # libfaketime looks at the file once a second, the gateway's tasks each half.
        await asyncio.sleep(2.5)


async def f7(leg, folder):
    door = Door(folder, leg.engine)
    try:
        clock = Clock(door)
        # The refusal that a node gives while its clock is not believed.
        guarded = b"Nothing new is granted now" in Path(Options.binary).read_bytes()
        door.start()
        door.login("alice", "bob", "carol")
        context = door.context("alice")

        def granted(length):
            request = door.read("request", "ops-api/deploy-prod", "--reason", "a fault", "--ticket", "OPS-1", "--for", length, profile="alice")
            return door.read("approve", request["id"], profile="bob")["grant"]

        async def deploy():
            connection = await door.connect("alice", context=context)
            try:
                return (await connection.ask("POST", "/v1/deployments/prod", body=b"")).status
            finally:
                connection.close()

        grant = granted("10m")
        leg.figure("a grant of 10 min, used", await deploy(), "200", await deploy() == 200)
        load = Load(door, rate=50, connections=4).start()
        await asyncio.sleep(1)
        for step in (3, -3) if not Options.short else (3,):
            await clock.step(step)
        await clock.step(0)
        await load.stop()
        leg.count("steps of 3 s under load: requests", len(load.answered), 50)
        leg.none("steps of 3 s under load: refused or broken", load.refused + load.broken)

        await clock.step(11 * 60)
        seen = await deploy()
        leg.figure("11 min forward: the grant is over", seen, "403", seen == 403)
        state = await state_of(door, grant)
        leg.figure("11 min forward: and is kept as over", state, "expired", state == "expired")
        await clock.step(0)
        seen = await deploy()
        leg.figure("11 min back: what was over stays over", seen, "403", seen == 403)
        state = await state_of(door, grant)
        # A step forward that is taken back within a minute was never believed: nobody else was told.
        leg.figure("11 min back: its state in the database", state, "active or expired", state in ("active", "expired"))
        await clock.step(-3600)
        # The certificate of the session is one of the future then.
        seen = await deploy_or_none(deploy)
        leg.figure("an hour back: still", seen or "no connection", "no 200", seen != 200)
        if guarded:
            code = door.cli("request", "ops-api/deploy-prod", "--reason", "x", "--ticket", "OPS-1", "--for", "10m", profile="alice", check=False)
            told = code.returncode
            if told == 0:
                approved = door.cli("approve", json.loads(door.cli("requests", "--mine", "-o", "json", profile="alice").stdout)["items"][0]["id"],
                                    profile="bob", check=False)
                told = approved.returncode
            leg.figure("an hour back: a new grant is refused", f"exit {told}", "not 0", told != 0)
        await clock.step(0)
        seen = await echo(door, context)
        leg.figure("and forward to the present: sessions pass", seen, "200", seen == 200)
        await asyncio.sleep(1)
        cpu, at = door.cpu(), time.monotonic()
        await clock.step(10 * 86400)
        await asyncio.sleep(2)
        busy = (door.cpu() - cpu) / (time.monotonic() - at)
        leg.at_most("10 days forward: CPU afterwards, no storm of renewals", busy, 0.5, "cpu")
        seen = await echo(door, context)
        leg.figure("10 days forward: sessions are over", seen, "no 200", seen != 200)
        leg.figure("10 days forward: the process lives", door.process.poll() is None, "True", door.process.poll() is None)
        await clock.step(0)
        seen = await deploy_or_none(deploy)
        leg.figure("and back: the grant of before stays over", seen, "no 200", seen != 200)
        if guarded and b"clock_right_since" not in Path(Options.binary).read_bytes():
            leg.table.add(leg.name, leg.engine, "the way back for a node that ran ahead (clock_right_since)", "", "", "not built")
            return
        if guarded:
            # The node goes on by the time that it had. The runbook's way back: say since when clocks are
            # right, and start it anew.
            since = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
            text = door.config.read_text()
            await asyncio.to_thread(door.stop)
            door.config.write_text(text.replace("[server]\n", f'[server]\nclock_right_since = "{since}"\n', 1))
            await asyncio.to_thread(door.start)
        door.login("alice", "carol")
        seen = await echo(door, door.context("alice"))
        leg.figure("who signs in anew passes", seen, "200", seen == 200)
        events = whole(leg, door)
        if guarded:
            stepped = [event for event in events if event["type"] == "clock.stepped"]
            leg.count("steps on record (clock.stepped)", len(stepped), 2)
        else:
            leg.table.add(leg.name, leg.engine, "steps are told and refuse new grants (clock.stepped)", "", "", "not built")
    finally:
        door.close()


async def state_of(door, grant):
    connection = await door.control_connection(door.context("alice"))
    try:
        return (await connection.ask("GET", f"/api/v1/grants/{grant}")).json().get("state")
    finally:
        connection.close()


async def deploy_or_none(deploy):
    try:
        return await deploy()
    except Broken:
        return None


async def echo(door, context):
    try:
        connection = await door.connect("alice", context=context)
        try:
            return (await connection.ask("GET", "/echo/clock")).status
        finally:
            connection.close()
    except Broken as error:
        return f"no connection ({str(error)[:60]})"
