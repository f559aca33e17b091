"""F13 and F14: what is good once is used often; what is written is changed."""

import asyncio
import collections
import concurrent.futures
import os
import random
import shutil

import independent
from caller import Broken, SignIn, form, post
from crash import rust, whole
from crowd import second
from house import Door, Options

AT_ONCE = 50


async def at_once(door, number, ask, context=None):
    """So many do the same at the same time, each over a connection of its own."""
    connections = [await door.control_connection(context) for _ in range(number)]
    try:
        return await asyncio.gather(*(ask(connection) for connection in connections))
    finally:
        for connection in connections:
            connection.close()


async def f13(leg, folder):
    door = Door(folder, leg.engine)
    nodes = [door]
    try:
        door.start()
        door.login("alice", "bob", "carol")
        number = 20 if Options.short else AT_ONCE
        signs = SignIn(door, folder / "minted")

        code, verifier = await signs.code("alice")
        answers = await at_once(door, number, lambda connection: signs.redeem(code, verifier, connection))
        won = [answer for answer in answers if answer.status == 200]
        leg.figure(f"a code redeemed {number} times at once", len(won), "at most 1", len(won) <= 1)
        leg.none("other answers than invalid_grant", [a for a in answers if a.status != 200 and a.reason() != "invalid_grant"])

        minted = await signs.mint("alice", 1)
        context = minted.context(door.ca)
        fields = {"grant_type": "refresh_token", "client_id": "doorward-cli", "refresh_token": minted.answer["refresh_token"]}
        answers = await at_once(door, number, lambda connection: form(door, fields, connection), context)
        won = [answer for answer in answers if answer.status == 200]
        leg.figure(f"a refresh token used {number} times at once", len(won), "at most 1", len(won) <= 1)
        if won:
            follower = dict(fields, refresh_token=won[0].json()["refresh_token"])
            answer = await form(door, follower, context=context)
            leg.figure("its family, after the reuse", answer.status, "400 or 401", answer.status in (400, 401))

        body = {"entitlement": "ops-api/deploy-prod", "reason": "a fault", "ticket": "OPS-1", "for": "10m"}
        alice = await door.control_connection(door.context("alice"))
        request = (await post(alice, "/api/v1/requests", body)).json()["id"]
        await at_once(door, number, lambda c: post(c, f"/api/v1/requests/{request}/approvals", {"answer": "approve"}), door.context("bob"))
        seen = (await alice.ask("GET", f"/api/v1/requests/{request}")).json()
        grants = [g for g in (await alice.ask("GET", "/api/v1/grants?limit=100")).json()["items"] if g["request"] == request]
        leg.figure(f"an approval given {number} times at once", f"{len(seen['approvals'])} approvals, {len(grants)} grants", "1, 1",
                   (len(seen["approvals"]), len(grants)) == (1, 1))

        key = ("idempotency-key", os.urandom(8).hex())
        send = [("content-type", "application/json"), key]
        text = b'{"entitlement":"ops-api/deploy-prod","reason":"once","ticket":"OPS-2","for":"10m"}'
        answers = await at_once(door, number, lambda c: c.ask("POST", "/api/v1/requests", send, text), door.context("alice"))
        made = {answer.json()["id"] for answer in answers if answer.status in (200, 201)}
        leg.figure(f"one Idempotency-Key {number} times at once", f"{len(made)} requests", "1", len(made) == 1)
        leg.none("its other answers", [a for a in answers if a.status not in (200, 201, 409)])

        # A code that nobody used: after a restart it is good once more, and never again.
        code, verifier = await signs.code("alice")
        used, used_verifier = await signs.code("alice")
        first = (await signs.redeem(used, used_verifier)).status
        alice.close()
        await asyncio.to_thread(door.stop)
        await asyncio.to_thread(door.start)
        if leg.engine == "PostgreSQL":
            nodes.append(await asyncio.to_thread(second, door))
        after = (await signs.redeem(used, used_verifier)).status
        leg.figure("a used code after a restart", f"{first}, then {after}", "200, then 400", (first, after) == (200, 400))
        won = 0
        for node in nodes:
            there = SignIn.__new__(SignIn)
            there.__dict__ |= signs.__dict__ | {"door": node}
            won += sum(answer.status == 200 for answer in await at_once(node, number // 2, lambda c: there.redeem(code, verifier, c)))
        leg.figure(f"a code of before on {len(nodes)} node(s), {number // 2} times each", won, "at most 1", won <= 1)
        if len(nodes) > 1:
            minted = await signs.mint("alice", 2)
            context = minted.context(door.ca)
            fields["refresh_token"] = minted.answer["refresh_token"]
            answers = await asyncio.gather(*(at_once(node, number // 2, lambda c: form(node, fields, c), context) for node in nodes))
            won = sum(answer.status == 200 for of_node in answers for answer in of_node)
            leg.figure("a refresh token at once on two nodes", won, "at most 1", won <= 1)
            nodes[1].stop()
        events = whole(leg, door)
        told = collections.Counter(event["type"] for event in events)
        reuse = sum(count for kind, count in told.items() if "reus" in kind or "replay" in kind)
        refused = [event for event in events if "reus" in str(event.get("reason")) or "replay" in str(event.get("reason"))]
        leg.count("reuse on record", reuse + len(refused), 1)
    finally:
        for node in nodes:
            node.close()
    if leg.engine == "SQLite":
        rust(leg, *REPLAYS)


# DPoP proofs, break-glass and logout tokens need keys that a client of a few lines has not.
REPLAYS = [
    "door::exchange::a46_a_token_that_is_bound_to_a_key_is_good_with_a_fresh_proof_of_it_and_once",
    "door::exchange::a47_of_fifty_who_exchange_one_token_at_once_one_gets_a_session",
    "sign_in::a47_fifty_redemptions_of_one_code_give_one_cookie",
    "sign_in::a47_fifty_deliveries_of_one_logout_token_are_obeyed_once",
    "oauth::a47_of_fifty_polls_of_an_agreed_device_one_gets_in",
]


async def f14(leg, folder):
    door = Door(folder, leg.engine)
    try:
        door.start()
        door.login("alice", "carol")
        connection = await door.connect("alice")
        wanted = 150 if Options.short else 1000
        while wanted:
            wanted -= 1
            answer = await connection.ask("GET", f"/echo/{wanted}")
            if answer.status != 200:
                raise Broken(str(answer))
        connection.close()
        old = folder / "old.db"
        await asyncio.sleep(1.5)
        events = whole(leg, door)
        _, evidence = door.export()
        leg.count("events in the record", len(events), 200 if Options.short else 2000)
        leg.none("what an independent verifier says against it", independent.verify(evidence))
        tried, missed, displaced = tamper(door, evidence, folder, 24 if Options.short else 160)
        leg.note("changes tried (flip, delete, double, swap, cut)", tried)
        leg.none("changes that one of the two verifiers did not find", missed)
        leg.none("changes found elsewhere than where they are", displaced)
        # An older database put back, against what a witness has.
        witness = door.dir / "witness.checkpoints"
        door.stop()
        shutil.copy(door.dir / "doorward.db", old)
        door.start()
        connection = await door.connect("alice")
        for number in range(30):
            await connection.ask("GET", f"/echo/later-{number}")
        connection.close()
        await asyncio.sleep(2)
        door.stop()
        (door.dir / "doorward.db").unlink()
        for left in ("-wal", "-shm"):
            (door.dir / f"doorward.db{left}").unlink(missing_ok=True)
        shutil.copy(old, door.dir / "doorward.db")
        code = door.cli("audit", "verify", f"sqlite://{door.dir}/doorward.db", "--checkpoint", witness, profile="carol", check=False).returncode
        leg.figure("an older database put back, against a witness", f"exit {code}", "12 or 13", code in (12, 13))
    finally:
        door.close()
    rust(leg, "audit_verify::f14_what_is_done_to_one_line_is_found_at_its_index",
         "audit_verify::f14_deleted_doubled_swapped_and_cut_lines_are_found_at_their_index",
         "audit_verify::f14_every_byte_of_what_goes_with_the_events_counts")


def tamper(door, evidence, folder, count):
    """Changes copies of the evidence, one each, and asks `audit verify` about them."""
    chance = random.Random(14)
    lines = (evidence / "events.jsonl").read_bytes().splitlines(keepends=True)
    others = [path for path in evidence.rglob("*") if path.is_file() and path.name not in ("events.jsonl", "README", "README.md", "README.txt")]
    jobs = []
    for number in range(count):
        kind = ("flip", "flip", "delete", "double", "swap", "cut", "other")[number % 7]
        at = chance.randrange(1, len(lines) - 1)
        jobs.append((number, kind, at, chance.random()))

    def one(job):
        number, kind, at, where = job
        copy = folder / f"tampered-{number}"
        shutil.copytree(evidence, copy)
        changed = list(lines)
        if kind == "flip":
            line = bytearray(changed[at])
            place = int(where * (len(line) - 1))
            line[place] ^= 1 << chance.randrange(7)
            changed[at] = bytes(line)
        elif kind == "delete":
            del changed[at]
        elif kind == "double":
            changed.insert(at, changed[at])
        elif kind == "swap":
            changed[at - 1], changed[at] = changed[at], changed[at - 1]
        elif kind == "cut":
            changed = changed[:at]
        if kind == "other":
            path = copy / others[at % len(others)].relative_to(evidence)
            text = bytearray(path.read_bytes())
            if not text:
                shutil.rmtree(copy)
                return None
            text[int(where * (len(text) - 1))] ^= 1
            path.write_bytes(bytes(text))
        else:
            (copy / "events.jsonl").write_bytes(b"".join(changed))
        done = door.verify(copy, check=False)
        # The other verifier reads events and roots; manifest and signatures are not its business.
        try:
            doubted = kind == "other" or bool(independent.verify(copy))
        except (ValueError, KeyError, OSError):
            doubted = True
        shutil.rmtree(copy)
        said = done.stderr + done.stdout
        name = f"{kind} at line {at + 1}" if kind != "other" else f"flip in {others[at % len(others)].name}"
        first = {"swap": at - 1, "double": at + 1}.get(kind, at)
        return name, done.returncode if doubted else None, kind, first, said

    missed, displaced, tried = [], [], 0
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for result in pool.map(one, jobs):
            if result is None:
                continue
            tried += 1
            name, code, kind, first, said = result
            if not code:
                missed.append(f"{name} ({'both' if code == 0 else 'the independent verifier'})")
            elif kind != "other" and not any(f"{number}" in said for number in (first, first + 1)):
                displaced.append(f"{name}: {said[:160]}")
    return tried, missed, displaced
