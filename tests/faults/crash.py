"""F1 and F2: the gateway is killed, and what was served, answered and promised is compared with the record."""

import asyncio
import collections
import random
import subprocess
import time

import caller
from caller import Broken, post
from house import Door, Load, Options, find, path_of, say

# What nobody may do without a grant.
DEPLOY = ("POST", "/v1/deployments/prod")


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
    """Asks, approves, uses and gives back, over and over, and remembers what was acknowledged.

    A node that is killed breaks connections, and one that comes back says 503 for a while. Where none is
    killed (`strict`) both are faults too.
    """

    def __init__(self, door, workers=1, hold=2, strict=False):
        self.door, self.workers, self.hold, self.strict = door, workers, hold, strict
        self.asked, self.approved, self.dropped, self.odd = set(), {}, set(), []
        self.used, self.refused = 0, 0
        self.closing, self.over, self.tasks, self.using = False, False, [], None

    def start(self):
        self.tasks = [asyncio.create_task(self.work()) for _ in range(self.workers)]
        self.using = asyncio.create_task(self.use())
        return self

    async def stop(self):
        self.closing = True
        await asyncio.gather(*self.tasks)
        # Tried on when the last grant has run out: until then one or another was there almost always.
        await asyncio.sleep(self.hold + 1)
        self.over = True
        await self.using

    async def work(self):
        contexts = {name: self.door.context(name) for name in ("alice", "bob")}
        while not self.closing:
            try:
                theirs = {name: await self.door.control_connection(context) for name, context in contexts.items()}
                while not self.closing:
                    await self.once(theirs["alice"], theirs["bob"])
            except Broken as error:
                await self.broken("request, approve, give back", error)

    async def once(self, alice, bob):
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
        # The last is given back, so that there is one however short this goes on.
        if self.closing or random.random() < 0.5:
            answer = await post(alice, f"/api/v1/grants/{grant}/drop", {})
            if answer.status == 200:
                self.dropped.add(grant)
            elif answer.status != 409 or self.strict:
                return await self.strange("giving back", answer)
        else:
            await asyncio.sleep(random.random() * 0.5)

    async def use(self):
        """All the time, with a grant and without one."""
        context = self.door.context("alice")
        while not self.over:
            try:
                connection = await self.door.connect("alice", context=context)
                while not self.over:
                    answer = await connection.ask(*DEPLOY, body=b"")
                    if answer.status == 200:
                        self.used += 1
                    elif (answer.status, answer.reason()) == (403, "no_policy_match"):
                        self.refused += 1
                    else:
                        await self.strange("using", answer)
                    await asyncio.sleep(0.05)
            except Broken as error:
                await self.broken("using", error)

    async def strange(self, doing, answer):
        # A node without its database says so; everything else is a fault.
        if answer.status != 503 or self.strict:
            self.odd.append(f"{doing}: {answer}")
        await asyncio.sleep(0.1)

    async def broken(self, doing, error):
        if self.strict:
            self.odd.append(f"{doing}: {error}")
        await asyncio.sleep(0.05)

    async def judge(self, leg, events, approvals, drops, uses):
        """What was acknowledged is there; nothing was given twice or used outside its time.

        That says something from so many `approvals`, `drops` and `uses` on.
        """
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
        leg.count("requests acknowledged", len(self.asked), approvals)
        leg.count("approvals acknowledged", len(self.approved), approvals)
        leg.count("drops acknowledged", len(self.dropped), drops)
        leg.none("acknowledged requests that are gone", [r for r, state in states.items() if state is None])
        leg.none("acknowledged approvals without their grant",
                 [r for r, g in self.approved.items() if not states.get(r) or states[r]["grant"] != g or g not in grants])
        leg.none("acknowledged drops that are undone", [g for g in self.dropped if grants.get(g, {}).get("state") != "dropped"])
        twice = collections.Counter(grant["request"] for grant in grants.values())
        leg.none("approvals used twice", [request for request, count in twice.items() if count > 1])
        leg.none("operations that failed without a reason", self.odd)
        spans = {}
        for grant in grants.values():
            if grant.get("active_at"):
                ends = [caller.times(grant[key]) for key in ("expires_at", "ended_at") if grant.get(key)]
                spans[grant["id"]] = (caller.times(grant["active_at"]), min(ends) if ends else float("inf"))

        def within(at, span):
            # A node obeys its own operations at once; a second is what the promise allows.
            return span[0] - 1000 <= at <= span[1] + 1000

        served = [at for at, *what in self.door.upstream.served() if tuple(what) == DEPLOY]
        leg.count("uses served, as the upstream has it", len(served), uses)
        leg.count("uses refused without a grant", self.refused, 10)
        leg.figure("uses answered 200", self.used, f"<= {len(served)}", self.used <= len(served))
        leg.none("uses outside the time of any grant (+1 s)", [at for at in served if not any(within(at, span) for span in spans.values())])
        # Grants overlap; the record says which of them it was.
        allowed = [event for event in events if event["type"] == "decision.allow" and asked_for(event) == DEPLOY]
        leg.none("uses outside the time of the grant on record (+1 s)",
                 [event["id"] for event in allowed if not within(caller.times(event["time"]), spans.get(event.get("grant"), (0, 0)))])


def asked_for(event):
    """Method and path of an event's request."""
    return find(event.get("request"), "method"), path_of(event)


def whole(leg, door):
    """Everything served is on record, the record is whole."""
    began, waiting = time.monotonic(), True
    while waiting and time.monotonic() - began < 30:
        # What went to the spool while the database was away is on its way into it.
        waiting = bool(door.metric("doorward_audit_spool_events")) or door.metric('doorward_audit_state{state="database"}') == 0
        time.sleep(0.1)
    if time.monotonic() - began > 0.5:
        leg.at_most("the spool is merged into the record after", time.monotonic() - began, 15.0)
    served = collections.Counter((method, path) for _, method, path in door.upstream.served())
    until = time.monotonic() + 10
    while True:
        # An export has what is numbered, and numbers come within a second.
        time.sleep(1.1)
        events, folder = door.export()
        # Each time that it was served needs an event of its own; one that was allowed may not have got there.
        allowed = collections.Counter(asked_for(event) for event in {event["id"]: event for event in events}.values()
                                      if event["type"] == "decision.allow")
        if served <= allowed or time.monotonic() > until:
            break
    leg.figure("requests allowed on record, served by the upstream", f"{allowed.total()}, {served.total()}", "some of both, or none",
               bool(allowed) == bool(served))
    leg.none("served without a record", [" ".join(what) for what in (served - allowed).elements()])
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
        load, desk = Load(door, rate=200).start(), Desk(door, workers=2).start()
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
        await desk.judge(leg, whole(leg, door), approvals=rounds, drops=max(1, rounds // 10), uses=rounds * 6)
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
        leg.note("kills in the midst of request, approve, use, give back", rounds)
        connection = await door.control_connection(door.context("alice"))
        still = (await connection.ask("GET", "/api/v1/grants?limit=100")).json()["items"]
        connection.close()
        leg.none("grants that outlive their time", [g["id"] for g in still if g["state"] in ("active", "scheduled", "queued")])
        await desk.judge(leg, whole(leg, door), approvals=rounds * 2, drops=max(1, rounds // 5), uses=rounds * 6)
    finally:
        door.close()
