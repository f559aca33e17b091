"""A20 and A48, as far as they are a matter of figures: what floods of frames cost others, and whether time
tells what exists."""

import asyncio
import secrets
import statistics
import struct
import time

from caller import DOMAIN, H1, Broken, percentile
from crash import whole
from house import Door, Load, Options

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# Frames of one flood at most, and how many go out at a time.
FRAMES, BATCH = 20_000, 100


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def head(authority):
    """GET / as a header block without any table (RFC 7541)."""
    name = authority.encode()
    return b"\x82\x87\x84\x01" + bytes([len(name)]) + name


def floods(authority):
    block = head(authority)
    return {
        "rapid reset": lambda n: frame(1, 5, n * 2 + 1, block) + frame(3, 0, n * 2 + 1, b"\0\0\0\x08"),
        # The other side is made to reset: no stream's window may grow by nothing (RFC 9113 §6.9).
        "made you reset": lambda n: frame(1, 5, n * 2 + 1, block) + frame(8, 0, n * 2 + 1, b"\0\0\0\0"),
        "continuation": lambda n: frame(1, 1, 1, block) if n == 0 else frame(9, 0, 1, b"\x40\x01a\x01b"),
        "empty data": lambda n: frame(1, 4, 1, block) if n == 0 else frame(0, 0, 1),
        "settings": lambda n: frame(4, 0, 0),
        "ping": lambda n: frame(6, 0, 0, b"\0" * 8),
    }


async def flood(door, host, make):
    """Sends frames until it is told to go away. How many, and whether it was."""
    connection = await H1.open(door.port, host, door.context("alice", ("h2",)))
    connection.writer.write(PREFACE + frame(4, 0, 0))
    sent, ended = 0, asyncio.create_task(until_goaway(connection.reader))
    try:
        while sent < FRAMES and not ended.done():
            connection.writer.write(b"".join(make(sent + n) for n in range(BATCH)))
            sent += BATCH
            await asyncio.wait_for(connection.writer.drain(), 5)
            # It gets to read what was sent, so that the count says something.
            await asyncio.sleep(0.005)
    except (OSError, asyncio.TimeoutError):
        pass
    try:
        gone = await asyncio.wait_for(ended, 5)
    except asyncio.TimeoutError:
        gone = False
    connection.close()
    return sent, gone


async def until_goaway(reader):
    """True once a GOAWAY comes or the connection ends."""
    try:
        while True:
            start = await reader.readexactly(9)
            length, kind = int.from_bytes(start[:3], "big"), start[3]
            await reader.readexactly(length)
            if kind == 7:
                return True
    except (asyncio.IncompleteReadError, OSError):
        return True


async def a20(leg, folder):
    door = Door(folder, leg.engine)
    try:
        door.start()
        door.login("alice", "bob", "carol")
        host = f"ops-api.{DOMAIN}"
        # Each flood once first: what is taken once and kept is no cost of a flood.
        kinds = floods(f"{host}:{door.port}")
        for make in kinds.values():
            await flood(door, host, make)
        load = Load(door, name="bob", rate=50, connections=4).start()
        await asyncio.sleep(1)
        load.clear()
        await asyncio.sleep(3 if Options.short else 8)
        alone, base = percentile(load.seconds, 0.99), door.rss()
        load.clear()
        most, stayed, peak, over = {}, [], base, False

        async def watch():
            nonlocal peak
            while not over:
                peak = max(peak, door.rss())
                await asyncio.sleep(0.05)

        watching = asyncio.create_task(watch())
        for _ in range(1 if Options.short else 5):
            for name, make in kinds.items():
                for sent, gone in await asyncio.gather(*(flood(door, host, make) for _ in range(4))):
                    most[name] = max(most.get(name, 0), sent)
                    if not gone:
                        stayed.append(name)
        over = True
        await watching
        await load.stop()
        leg.none("floods that nothing ended", stayed)
        leg.at_most(f"frames until the end at most ({max(most, key=most.get)})", max(most.values()), 2_000 + BATCH, "", of_time=False)
        leg.at_most(f"memory above the base ({base:.0f} MiB)", peak - base, 20, "MiB", of_time=False)
        leg.none("requests of others refused or broken", load.refused + load.broken)
        leg.at_most(f"their p99 (alone {alone * 1000:.1f} ms)", percentile(load.seconds, 0.99) * 1000, max(2 * alone * 1000, 20), "ms")
        whole(leg, door)
    finally:
        door.close()


def made_up(prefix, like):
    """An id of the same form and time that nobody has."""
    letters = "0123456789abcdefghijklmnopqrstuv"
    return prefix + like[len(prefix):len(prefix) + 12] + "".join(secrets.choice(letters) for _ in range(14 - 1)) + "0"


async def a48(leg, folder):
    door = Door(folder, leg.engine)
    rounds = 100 if Options.short else 400
    try:
        door.start()
        door.login("alice", "bob", "dave", "carol")
        asked = door.read("request", "ops-api/deploy-prod", "--reason", "a test", "--ticket", "OPS-1", profile="alice")
        door.cli("approve", asked["id"], "--yes", profile="bob")
        grant = door.read("show", asked["id"], profile="alice")["grant"]
        session = door.read("whoami", profile="alice")["session"]["id"]
        connection = await door.control_connection(door.context("dave"))

        async def took(path):
            began = time.perf_counter()
            answer = await connection.ask("GET", path)
            seconds = time.perf_counter() - began
            body = answer.json()
            body.pop("decision", None)
            return seconds, (answer.status, str(body))

        things = {"requests": ("req_", asked["id"]), "grants": ("grt_", grant), "credentials": ("crd_", "crd_" + session[4:])}
        for name, (prefix, real) in things.items():
            times, answers = {"real": [], "none": [], "other": []}, set()
            for number in range(rounds + 10):
                # In turns, so that whatever else goes on is the same for all.
                for kind in ("real", "none", "other"):
                    path = f"/api/v1/{name}/{real if kind == 'real' else made_up(prefix, real)}"
                    seconds, answer = await took(path)
                    answers.add(answer)
                    if number >= 10:
                        times[kind].append(seconds)
            leg.figure(f"{name}: answers that differ", len(answers) - 1, "0", len(answers) == 1)
            real_, none, other = (statistics.median(times[kind]) * 1e6 for kind in ("real", "none", "other"))
            # Noise: what two runs of the same question differ by, and a seventh.
            limit = max(4 * abs(none - other), none / 7)
            leg.figure(f"{name}: median of what is another's, of what is not there", f"{real_:.0f}, {none:.0f} µs",
                       f"within {limit:.0f}", abs(real_ - none) <= limit)
        connection.close()
    except Broken as error:
        raise RuntimeError(error) from error
    finally:
        door.close()
