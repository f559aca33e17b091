"""F6: what the record is written to is full, fails, hangs; what is told is read by nobody."""

import asyncio
import os
import subprocess
import time

from crash import rust, whole
from house import Door, Load, Options, Skip


def command(*arguments):
    return subprocess.run([str(a) for a in arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True).returncode == 0


class Disk:
    """A file system in a file, which can be stopped."""

    def __init__(self, folder, megabytes):
        folder.mkdir(parents=True, exist_ok=True)
        self.at, image = folder / "disk", folder / "image"
        self.at.mkdir()
        with image.open("wb") as file:
            file.truncate(megabytes << 20)
        if os.getuid() or not (command("mkfs.ext4", "-q", "-F", "-m", "0", image) and command("mount", "-o", "loop", image, self.at)):
            raise Skip("a disk of its own needs root, mkfs.ext4 and a loop device")

    def freeze(self):
        if not command("fsfreeze", "-f", self.at):
            raise Skip("fsfreeze is missing")

    def thaw(self):
        command("fsfreeze", "-u", self.at)

    def close(self):
        self.thaw()
        command("umount", "-l", self.at)


async def f6(leg, folder):
    rust(leg, "away::f6_with_sqlite_hanging_and_then_unreadable_nothing_is_lost_and_all_is_merged_when_it_is_back",
         "disk::f6_a_full_disk_under_the_database_sends_decisions_to_the_room_that_the_spool_took_before",
         "disk::f6_with_every_flush_failing_nothing_passes_and_it_recovers_by_itself",
         "spool::f6_a_spool_that_is_altered_while_the_database_is_away_is_kept_and_the_door_goes_on",
         "spool::a71_junk_cannot_use_the_last_fifth_of_the_spool_and_the_emergency_path_has_the_rest")
    if not Options.short:
        rust(leg, "away::f6_with_postgresql_stopped_nothing_is_lost_and_all_is_merged_when_it_is_back")
    try:
        await hung_disk(leg, folder / "hung")
    except Skip as skip:
        leg.table.add(leg.name, leg.engine, f"a disk that hangs: {skip}", "", "", "skipped")
    await nobody_reads(leg, folder / "unread")


async def hung_disk(leg, folder):
    """Database and spool on a disk that stops answering, as a network disk does."""
    disk = Disk(folder, 300)
    door = None
    try:
        door = Door(folder / "house", leg.engine)
        # Installed elsewhere, its state on that disk.
        text = door.config.read_text().replace("sqlite://doorward.db", f"sqlite://{disk.at}/doorward.db")
        door.config.write_text(text.replace('# spool = "doorward.spool"', f'spool = "{disk.at}/doorward.spool"'))
        door.start()
        door.login("alice", "carol")
        load = Load(door, rate=100, connections=8).start()
        await asyncio.sleep(1.5)
        before = set(load.answered)
        leg.count("requests before", len(before), 30)
        disk.freeze()
        await asyncio.sleep(0.3)
        load.clear()
        await asyncio.sleep(5)
        refused = list(load.refused)
        alive = door.process.poll() is None
        disk.thaw()
        began = time.monotonic()
        answered = len(load.answered)
        while len(load.answered) <= answered + 20 and time.monotonic() - began < 30:
            await asyncio.sleep(0.02)
        leg.at_most("disk hangs: passes again once it does not", time.monotonic() - began, 5.0)
        await load.stop()
        leg.count("disk hangs: requests refused", len(refused), 1)
        leg.none("disk hangs: refused as other than 503 audit_unavailable",
                 [row[:2] for row in refused if row[:2] != (503, "audit_unavailable")])
        leg.at_most("disk hangs: slowest refusal", max((row[3] for row in refused), default=None), 2.0)
        leg.figure("disk hangs: the process lives", alive, "True", alive)
        leg.none("disk hangs: broken connections", load.broken)
        whole(leg, door)
    finally:
        disk.thaw()
        if door:
            door.close()
        disk.close()


async def nobody_reads(leg, folder):
    """Its log goes into a pipe that is full; a witness is a pipe without a reader."""
    door = Door(folder, leg.engine)
    reading, writing = os.pipe()
    try:
        witness = door.dir / "witness.checkpoints"
        witness.unlink(missing_ok=True)
        os.mkfifo(witness)
        door.extra = {"DOORWARD_LOG": "trace"}
        door.start(stdout=writing, stderr=writing)
        os.close(writing)
        # Signing in writes more lines than the pipe has room for.
        for name in ("alice", "carol"):
            try:
                door.login(name)
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                leg.figure("a log that nobody reads: sign-in", str(error)[:80], "goes on", False)
                return
        load = Load(door, rate=100, connections=4).start()
        await asyncio.sleep(5 if Options.short else 8)
        await load.stop()
        leg.count("a log that nobody reads: requests", len(load.answered), 100)
        leg.none("a log that nobody reads: refused or broken", load.refused + load.broken)
        leg.at_most("a log that nobody reads: slowest request", max(load.seconds, default=None), 2.0)
        leg.figure("its health", door.ask("/healthz")[0], "200", door.ask("/healthz")[0] == 200)
        began = time.monotonic()
        code = door.stop()
        leg.at_most(f"it ends in order (exit {code})", time.monotonic() - began if code == 0 else None, 15.0)
    finally:
        os.close(reading)
        door.close()
