"""F1 and F2: the gateway is killed, and what was served, answered and promised is compared with the record."""

import asyncio
import collections
import random
import subprocess
import time

import caller
from caller import Broken, post
from house import Door, Load, Options, path_of, say


def rust(leg, *names):
    """Tests of this fault that go through the library, where a program can't be stopped at each step."""
    if Options.short:
        # CI runs them already, among all tests.
        return
    for name in names:
        began = time.monotonic()
        try:
            run = subprocess.run([Options.test_binary, "--exact", name, "--nocapture"], stdin=subprocess.DEVNULL, capture_output=True,
                                 text=True, timeout=60 * max(1.0, Options.slack))
            out, code = run.stdout + run.stderr, run.returncode
        except subprocess.TimeoutExpired:
            out, code = "", "longer than a minute"
        title = name.rsplit("::", 1)[-1].replace("_", " ")
        skipped = [line for line in out.splitlines() if line.startswith("skipped")]
        if skipped:
            leg.table.add(leg.name, leg.engine, title, skipped[0].split(":", 1)[-1].strip(), "", "skipped")
            continue
        passed = code == 0 and "1 passed" in out
        figure = f"{time.monotonic() - began:.1f} s" if passed else f"exit {code}"
        leg.figure(title, figure, "passes", passed)
        if not passed:
            say("\n".join(out.splitlines()[-12:]))


class Desk:
    """Asks, approves, uses and gives back, over and over, and remembers what was acknowledged."""

    def __init__(self, door, workers=1, hold=2):
        self.door, self.workers, self.hold = door, workers, hold
        self.asked, self.approved, self.dropped, self.odd = set(), {}, set(), []
        self.over, self.tasks, self.rounds = False, [], 0

    def start(self):
        self.tasks = [asyncio.create_task(self.work(number)) for number in range(self.workers)]
        self.tasks.append(asyncio.create_task(self.use()))
        return self

    async def stop(self):
        self.over = True
        await asyncio.gather(*self.tasks)

    async def work(self, number):
        contexts = {name: self.door.context(name) for name in ("alice", "bob")}
        while not self.over:
            try:
                theirs = {name: await self.door.control_connection(context) for name, context in contexts.items()}
                while not self.over:
                    await self.once(theirs["alice"], theirs["bob"], number)
            except Broken:
                await asyncio.sleep(0.05)

    async def once(self, alice, bob, number):
        self.rounds += 1
        body = {"entitlement": "ops-api/deploy-prod", "reason": "a fault", "ticket": "OPS-1", "for": f"{self.hold}s"}
        answer = await post(alice, "/api/v1/requests", body)
        if answer.status not in (200, 201):
            return await self.strange("asking", answer)
        request = answer.json()["id"]
        self.asked.add(request)
        answer = await post(bob, f"/api/v1/requests/{request}/approvals", {"answer": "approve"})
        if answer.status not in (200, 201):
            return await self.strange("approving", answer)
        grant = answer.json()["grant"]
        self.approved[request] = grant
        await asyncio.sleep(random.random() * self.hold * 0.6)
        if random.random() < 0.5:
            answer = await post(alice, f"/api/v1/grants/{grant}/drop", {})
            if answer.status == 200:
                self.dropped.add(grant)
            elif answer.status != 409:
                return await self.strange("giving back", answer)
        else:
            await asyncio.sleep(random.random() * 0.5)

    async def strange(self, doing, answer):
        # A node without its database says so; everything else is a fault.
        if answer.status != 503:
            self.odd.append(f"{doing}: {answer}")
        await asyncio.sleep(0.1)

    async def use(self):
        context = self.door.context("alice")
        while not self.over:
            try:
                connection = await self.door.connect("alice", context=context)
                while not self.over:
                    await connection.ask("POST", "/v1/deployments/prod", body=b"")
                    await asyncio.sleep(0.05)
            except Broken:
                await asyncio.sleep(0.05)

    async def judge(self, leg):
        """What was acknowledged is there; nothing was given twice or used outside its time."""
        connection = await self.door.control_connection(self.door.context("alice"))
        grants, cursor = {}, ""
        while True:
            page = (await connection.ask("GET", f"/api/v1/grants?limit=100{cursor}")).json()
            grants |= {grant["id"]: grant for grant in page["items"]}
            if not page["next"]:
                break
            cursor = f"&cursor={page['next']}"
        states = {}
        for request in self.asked:
            answer = await connection.ask("GET", f"/api/v1/requests/{request}")
            states[request] = answer.json() if answer.status == 200 else None
        connection.close()
        leg.count("requests, approvals, drops acknowledged", len(self.asked) + len(self.approved) + len(self.dropped), 6)
        leg.none("acknowledged requests that are gone", [r for r, state in states.items() if state is None])
        leg.none("acknowledged approvals without their grant",
                 [r for r, g in self.approved.items() if not states.get(r) or states[r]["grant"] != g or g not in grants])
        leg.none("acknowledged drops that are undone", [g for g in self.dropped if grants.get(g, {}).get("state") != "dropped"])
        twice = collections.Counter(grant["request"] for grant in grants.values())
        leg.none("approvals used twice", [request for request, count in twice.items() if count > 1])
        leg.none("operations that failed without a reason", self.odd)
        spans = []
        for grant in grants.values():
            if grant.get("active_at"):
                ends = [caller.times(grant[key]) for key in ("expires_at", "ended_at") if grant.get(key)]
                spans.append((caller.times(grant["active_at"]), min(ends) if ends else float("inf")))
        # A node obeys its own operations at once; a second is what the promise allows.
        late = [at for at, method, path in self.door.upstream.served() if path == "/v1/deployments/prod"
                and not any(begins - 1000 <= at <= ends + 1000 for begins, ends in spans)]
        leg.none("uses outside the time of a grant (+1 s)", late)


def whole(leg, door):
    """Everything served is on record, the record is whole."""
    began, waiting = time.monotonic(), True
    while waiting and time.monotonic() - began < 30:
        # What went to the spool while the database was away is on its way into it.
        waiting = bool(door.metric("doorward_audit_spool_events")) or door.metric('doorward_audit_state{state="database"}') == 0
        time.sleep(0.1)
    if time.monotonic() - began > 0.5:
        leg.at_most("the spool is merged into the record after", time.monotonic() - began, 15.0)
    served = {path for _, _, path in door.upstream.served()}
    until = time.monotonic() + 10
    while True:
        # An export has what is numbered, and numbers come within a second.
        time.sleep(1.1)
        events, folder = door.export()
        allowed = {path_of(event) for event in events if event["type"] == "decision.allow"}
        if served <= allowed or time.monotonic() > until:
            break
    leg.none("served without a record", served - allowed)
    logs = collections.defaultdict(list)
    for event in events:
        logs[event["node"]].append(event["seq"])
    leg.none("numbers twice or missing", [n for n, seqs in logs.items() if sorted(seqs) != list(range(len(seqs)))])
    verified = door.verify(folder, check=False)
    leg.figure("`audit verify` of the whole record", f"exit {verified.returncode}", "0", verified.returncode == 0)
    return events


async def f1(leg, folder):
    door = Door(folder, leg.engine)
    try:
        door.start()
        door.login("alice", "bob", "carol")
        load, desk = Load(door, rate=200).start(), Desk(door).start()
        rounds, back = 3 if Options.short else 20, []
        for _ in range(rounds):
            await asyncio.sleep(0.3 + random.random() * 0.6)
            answered = len(load.answered)
            door.kill()
            began = time.monotonic()
            await asyncio.to_thread(door.start)
            while len(load.answered) <= answered and time.monotonic() - began < 20:
                await asyncio.sleep(0.01)
            back.append(time.monotonic() - began)
        await asyncio.sleep(0.5)
        await load.stop()
        await desk.stop()
        leg.count(f"answered under load, {rounds} kills", len(load.answered), 20 * rounds)
        served = {path for _, _, path in door.upstream.served()}
        leg.none("answered 200 but never served", set(load.answered) - served)
        leg.none("refused", [row[:2] for row in load.refused])
        leg.at_most("serves again after a kill, slowest", max(back), 2.0)
        await desk.judge(leg)
        whole(leg, door)
    finally:
        door.close()


async def f2(leg, folder):
    if leg.engine == "SQLite":
        rust(leg, "grant_crash::a57_an_operation_whose_caller_goes_away_at_any_step_is_done_whole_or_not_at_all",
             "grant_crash::a57_an_operation_whose_node_dies_at_any_step_is_done_whole_or_not_at_all",
             "grant_crash::a57_an_operation_that_fails_at_any_of_its_writes_did_nothing_and_can_be_repeated")
    door = Door(folder, leg.engine)
    try:
        door.start()
        door.login("alice", "bob", "carol")
        desk = Desk(door, workers=4, hold=2).start()
        rounds = 3 if Options.short else 15
        for _ in range(rounds):
            await asyncio.sleep(0.4 + random.random() * 0.5)
            door.kill()
            await asyncio.to_thread(door.start)
        await asyncio.sleep(0.5)
        await desk.stop()
        await asyncio.sleep(2.5)
        leg.note("kills in the midst of request, approve, use, give back", rounds)
        await desk.judge(leg)
        connection = await door.control_connection(door.context("alice"))
        still = (await connection.ask("GET", "/api/v1/grants?limit=100")).json()["items"]
        connection.close()
        leg.none("grants that outlive their time", [g["id"] for g in still if g["state"] in ("active", "scheduled", "queued")])
        whole(leg, door)
    finally:
        door.close()
