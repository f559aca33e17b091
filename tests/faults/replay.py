"""F13 and F14: what is good once is used often; what is written is changed."""

import asyncio
import copy
import hashlib
import json
import os
import random
import shutil
import ssl
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

import independent
from caller import Broken, SignIn, form, post
from crash import rust, whole
from crowd import log_out, logout_token, point_of, second, signed
from house import Door, Options, find

AT_ONCE = 50


async def at_once(connect, number, ask):
    """So many do the same at the same time, each over a connection of its own."""
    connections = [await connect() for _ in range(number)]
    try:
        return await asyncio.gather(*(ask(connection) for connection in connections))
    finally:
        for connection in connections:
            connection.close()


class Code:
    """An authorization code. Of each kind: what who comes later is told, and the reason in the record."""

    name, lost, told = "a code", (400, "invalid_grant"), "code_reused"

    def __init__(self, signs):
        self.signs = signs

    async def make(self):
        return await self.signs.code("alice")

    async def at(self, node, code):
        """How to connect for it at a node, and what is asked there."""
        there = copy.copy(self.signs)
        there.door = node
        return node.control_connection, lambda connection: there.redeem(*code, connection)


class Refresh(Code):
    """A refresh token, of a session of its own."""

    name, told, number = "a refresh token", "refresh_reused", 0

    async def make(self):
        self.number += 1
        return await self.signs.mint("alice", self.number)

    async def at(self, node, minted):
        context = minted.context(node.ca)
        fields = {"grant_type": "refresh_token", "client_id": "doorward-cli", "refresh_token": minted.answer["refresh_token"]}
        return lambda: node.control_connection(context), lambda connection: form(node, fields, connection)


class Proof(Code):
    """A DPoP proof (RFC 9449): at every node of the same key and `jti`, for a token of that node."""

    name, lost, told = "a DPoP proof", (401, "bad_credential"), "a proof that was used before"

    async def make(self):
        return os.urandom(8).hex()

    def proof(self, method, url, jti, **more):
        x, y = point_of(self.signs.key)
        head = {"typ": "dpop+jwt", "jwk": {"kty": "EC", "crv": "P-256", "x": x, "y": y}}
        return "dpop", signed(self.signs.key, head, {"htm": method, "htu": url, "jti": jti, "iat": int(time.time()), **more})

    async def token(self, node, context, nonce=None):
        """The endpoint's answer; without its nonce that is the nonce."""
        certificate = ssl.PEM_cert_to_DER_cert(node.people["alice"][0].read_text())
        fields = {"grant_type": "urn:ietf:params:oauth:grant-type:token-exchange", "client_id": "doorward-cli", "audience": "ops-api",
                  "subject_token": independent.sealed(hashlib.sha256(certificate).digest()),
                  "subject_token_type": "urn:doorward:params:oauth:token-type:session-certificate"}
        headers = [("content-type", "application/x-www-form-urlencoded"),
                   self.proof("POST", f"{node.control}/oauth2/token", os.urandom(8).hex(), **({"nonce": nonce} if nonce else {}))]
        connection = await node.control_connection(context)
        try:
            return await connection.ask("POST", "/oauth2/token", headers, urllib.parse.urlencode(fields).encode())
        finally:
            connection.close()

    async def at(self, node, jti):
        context = node.context("alice")
        nonce = (await self.token(node, context)).headers["dpop-nonce"]
        answer = await self.token(node, context, nonce)
        if answer.status != 200:
            raise Broken(f"a token that is bound to a key: {answer}")
        token = answer.json()["access_token"]
        proof = self.proof("GET", node.control.replace("//", "//ops-api.") + "/echo/proof", jti, nonce=nonce,
                           ath=independent.sealed(hashlib.sha256(token.encode()).digest()))
        headers = [("authorization", f"DPoP {token}"), proof]
        return lambda: node.connect("alice", context=context), lambda connection: connection.ask("GET", "/echo/proof", headers)


class Logout(Code):
    """A logout token of the provider's. That it came again is in the node's log alone."""

    name, lost, told = "a logout token", (400, "invalid_request"), None

    async def make(self):
        await self.signs.mint("dave")
        return logout_token(self.signs.door, "dave")

    async def at(self, node, token):
        return node.control_connection, lambda connection: log_out(connection, token)


async def used(leg, kind, nodes, thing, number, what, wins):
    """At all nodes at the same time; so many win, everybody else is told so in the one way."""
    there = [await kind.at(node, thing) for node in nodes]
    answers = sum(await asyncio.gather(*(at_once(connect, number // len(nodes), ask) for connect, ask in there)), [])
    won = [answer for answer in answers if answer.status == 200]
    leg.figure(f"{kind.name} {len(answers)} times {what}", len(won), str(wins), len(won) == wins)
    leg.none(f"other refusals than {' '.join(map(str, kind.lost))}",
             [a for a in answers if a.status != 200 and (a.status, a.reason()) != kind.lost])
    return won


async def approvals(leg, door, number):
    body = {"entitlement": "ops-api/deploy-prod", "reason": "a fault", "ticket": "OPS-1", "for": "10m"}
    alice, bob = door.context("alice"), door.context("bob")
    connection = await door.control_connection(alice)
    request = (await post(connection, "/api/v1/requests", body)).json()["id"]
    connection.close()
    for number, when in ((number, f"{number} times at once"), (1, "again after a restart")):
        await at_once(lambda: door.control_connection(bob), number,
                      lambda c: post(c, f"/api/v1/requests/{request}/approvals", {"answer": "approve"}))
        connection = await door.control_connection(alice)
        seen = (await connection.ask("GET", f"/api/v1/requests/{request}")).json()
        grants = [g for g in (await connection.ask("GET", "/api/v1/grants?limit=100")).json()["items"] if g["request"] == request]
        connection.close()
        leg.figure(f"an approval given {when}", f"{len(seen['approvals'])} approvals, {len(grants)} grants", "1, 1",
                   (len(seen["approvals"]), len(grants)) == (1, 1))
        yield


async def keys(leg, nodes, number):
    send, made = [("content-type", "application/json"), ("idempotency-key", os.urandom(8).hex())], set()
    text = b'{"entitlement":"ops-api/deploy-prod","reason":"once","ticket":"OPS-2","for":"10m"}'
    for when in ("at once", "more after a restart"):
        for node in nodes:
            context = node.context("alice")
            answers = await at_once(lambda: node.control_connection(context), number,
                                    lambda c: c.ask("POST", "/api/v1/requests", send, text))
            made |= {answer.json()["id"] for answer in answers if answer.status in (200, 201)}
            leg.none("its other answers than 409", [a for a in answers if a.status not in (200, 201, 409)])
        leg.figure(f"one Idempotency-Key {number} times {when}, {len(nodes)} node(s)", f"{len(made)} requests", "1", len(made) == 1)
        yield


class Opening:
    """The door as custodians open it; shown as often as one likes while it is open, and one opening."""

    def __init__(self, door, name):
        self.door, self.name, self.keys = door, name, door.folder / "custodians"
        if not self.keys.exists():
            door.cli("breakglass", "init", "--threshold", "2", "--generate", "2", "--out", self.keys, "--config", door.config)

    def open(self):
        challenge = self.door.folder / f"{self.name}.challenge"
        asked = self.door.cli("breakglass", "open", "--config", self.door.config, "--all", "--reason", "a fault", "--for", "10m",
                              "--opener", "erin", "--challenge-out", challenge, "-o", "json", profile=self.name)
        self.id, signatures = json.loads(asked.stdout)["id"], []
        for number in (1, 2):
            signatures += ["--signature", challenge.with_suffix(f".{number}")]
            self.door.cli("breakglass", "sign", "--key", self.keys / f"custodian-{number}", "--challenge", challenge,
                          "--out", signatures[-1])
        self.door.cli("breakglass", "open", "--resume", self.id, *signatures, profile=self.name)
        home = self.door.folder / "home" / "profiles" / self.name
        self.door.people[self.name] = (home / "certificate.pem", home / "key.pem")
        return self

    def close(self):
        self.door.cli("breakglass", "close", self.id, profile=self.name)

    async def shown(self, nodes, number):
        """(status, reason) of each."""
        answers = []
        for node in nodes:
            context = node.context(self.name)
            answers += await at_once(lambda: node.connect(self.name, context=context), number, lambda c: c.ask("GET", f"/echo/{self.name}"))
        return {(answer.status, answer.reason()) for answer in answers}


async def openings(leg, nodes, first, closed, number):
    over = (401, "session_ended")
    for opening in (first, closed):
        await asyncio.to_thread(opening.open)
    seen = await first.shown(nodes, number) | await closed.shown(nodes, number)
    leg.figure(f"two openings shown {number} times at once", seen, "200", seen == {(200, None)})
    await asyncio.to_thread(closed.close)
    seen = await closed.shown(nodes, number)
    leg.figure("one of them after its closing", seen, "401 session_ended", seen == {over})
    yield
    seen = await closed.shown(nodes[:1], number)
    leg.figure("the closed one after a restart", seen, "401 session_ended", seen == {over})
    seen = await first.shown(nodes, number)
    leg.figure(f"the other one, {len(nodes)} node(s)", seen, "200", seen == {(200, None)})
    yield


async def f13(leg, folder):
    door = Door(folder, leg.engine)
    nodes = [door]
    try:
        first, closed = Opening(door, "open"), Opening(door, "closed")
        door.start()
        door.login("alice", "bob", "carol")
        number = 20 if Options.short else AT_ONCE
        signs = SignIn(door, folder / "minted")
        kinds = [Code(signs), Refresh(signs), Logout(signs), Proof(signs)]
        gone, kept = {}, {}
        others = [approvals(leg, door, number), keys(leg, nodes, number), openings(leg, nodes, first, closed, number)]
        for other in others:
            await anext(other)
        for kind in kinds:
            gone[kind], kept[kind] = await kind.make(), await kind.make()
            won = await used(leg, kind, nodes, gone[kind], number, "at once", 1)
            if won and isinstance(kind, Refresh):
                context = gone[kind].context(door.ca)
                fields = {"grant_type": "refresh_token", "client_id": "doorward-cli", "refresh_token": won[0].json()["refresh_token"]}
                answer = await form(door, fields, context=context)
                leg.figure("its family, after the reuse", answer.status, "400 or 401", answer.status in (400, 401))
        await asyncio.to_thread(door.stop)
        await asyncio.to_thread(door.start)
        if leg.engine == "PostgreSQL":
            nodes.append(await asyncio.to_thread(second, door))
        # A proof is remembered for as long as it is good, which is a minute: it is next.
        for kind in reversed(kinds):
            await used(leg, kind, nodes, gone[kind], number, f"more after a restart, {len(nodes)} node(s)", 0)
            await used(leg, kind, nodes, kept[kind], number, f"one of before, {len(nodes)} node(s)", 1)
        for other in others:
            await anext(other)
        if len(nodes) > 1:
            nodes[1].stop()
        events = whole(leg, door)
        for kind in kinds:
            if kind.told:
                leg.count(f"{kind.name}: reuse on record", sum(kind.told in (event.get("reason"), find(event, "note")) for event in events), 2)
        leg.count("a logout token: reuse in the log", door.told().count("the logout token was used before"), number - 1)
        opened = sum(event["type"] == "breakglass.opened" for event in events)
        leg.figure("openings on record, of two that were shown everywhere", opened, "2", opened == 2)
    finally:
        for node in nodes:
            node.close()
    if leg.engine == "SQLite":
        rust(leg, *REPLAYS)
    leg.table.add(leg.name, leg.engine, "`jti` of a SET (CAEP), approval links", "", "", "not built")


# What needs an issuer's key, a browser's cookie or a device's wait, and proofs that are wrong in each way.
REPLAYS = [
    "door::exchange::a46_a_token_that_is_bound_to_a_key_is_good_with_a_fresh_proof_of_it_and_once",
    "door::exchange::a47_of_fifty_who_exchange_one_token_at_once_one_gets_a_session",
    "door::emergency::a59_a_closed_opening_is_over_at_once_and_stays_so",
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
        tamper(leg, door, evidence, folder)
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
         "audit_verify::f14_every_byte_of_what_goes_with_the_events_counts",
         "audit_tamper::f14_an_export_that_was_not_touched_is_whole",
         "audit_tamper::f14_every_change_of_one_place_is_found_and_the_first_bad_event_is_named",
         "audit_tamper::f14_what_is_rewritten_below_a_witnessed_checkpoint_with_every_key_is_found")


def tamper(leg, door, evidence, folder):
    """Many changes for the independent verifier, in memory; a share of them for `audit verify`, on disk."""
    chance = random.Random(14)
    lines = independent.split((evidence / independent.EVENTS).read_bytes())
    named = independent.roots((evidence / independent.CHECKPOINTS).read_text())
    known = {line: independent.held(line) for line in lines}
    count = 1000 if Options.short else 20_000
    missed, displaced = [], []
    for number in range(count):
        change = independent.change(independent.OF_LINES[number % len(independent.OF_LINES)], evidence, lines, chance)
        found = independent.first_wrong(change.lines, named, known)
        if not found:
            missed.append(change.what)
        elif change.first is not None and found[0] != change.first:
            displaced.append(f"{change.what}: {found}")
    leg.note("changes tried on the independent verifier", count)
    leg.none("of them not found", missed)
    leg.none("of them found elsewhere than where they are", displaced)

    def asked(number):
        kinds = independent.OF_LINES + independent.OF_SIGNATURES
        change = independent.change(kinds[number % len(kinds)], evidence, lines, random.Random(number))
        copied = folder / f"tampered-{number}"
        independent.put(change, evidence, copied)
        done = door.cli("audit", "verify", copied, "-o", "json", profile="carol", check=False)
        shutil.rmtree(copied)
        return change, done.returncode, json.loads(done.stdout)

    count = 55 if Options.short else 660
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(asked, range(count)))
    leg.note("changes tried on `audit verify`, the sums made to fit", count)
    leg.none("of them not found", [change.what for change, code, _ in results if code not in (10, 11, 12, 13)])
    leg.none("of them found by nothing but an unsigned sum",
             [change.what for change, _, told in results
              if "SHA-256" in told.get("detail", "") and independent.MANIFEST not in change.files])
    leg.none("of them found elsewhere than where they are", [f"{change.what}: {told}" for change, _, told in results
                                                             if change.first is not None and told.get("index") != change.first])
