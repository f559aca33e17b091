"""What a fault is done to: an installation with the real binary, its database, its upstream, and the
table that figures go into."""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

import caller
from caller import DOMAIN, H1, Broken

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BEGAN = time.monotonic()


class Options:
    """What the run was asked for."""

    binary = None
    test_binary = None
    short = False
    slack = 1.0  # limits on time are so many times longer: an unoptimised program, a busy machine
    postgres = None


def say(text):
    print(f"[{time.monotonic() - BEGAN:6.1f} s] {text}", file=sys.stderr, flush=True)


class Skip(Exception):
    """A leg that can't be done on this machine."""


class NotBuilt(Exception):
    """What a leg speaks of is not in the program yet."""


class Table:
    """Rows of leg, engine, what, figure, criterion and verdict."""

    def __init__(self):
        self.rows = []

    def add(self, leg, engine, what, figure, criterion, verdict):
        self.rows.append((leg, engine, what, str(figure), criterion, verdict))
        mark = {"pass": "ok  ", "FAIL": "FAIL"}.get(verdict, verdict)
        say(f"  {mark} {leg} {engine}: {what}: {figure}" + (f" (must: {criterion})" if criterion else ""))

    def failed(self):
        return [row for row in self.rows if row[5] == "FAIL"]

    def print(self):
        heads = ("leg", "engine", "what", "seen", "must be", "")
        widths = [max(len(row[i]) for row in [heads, *self.rows]) for i in range(6)]
        widths = [min(width, most) for width, most in zip(widths, (4, 10, 62, 40, 44, 9))]
        last = None
        for row in [heads, *self.rows]:
            shown = (row[0] if row[0] != last else "", *row[1:])
            last = row[0]
            print("  ".join(text.ljust(width) for text, width in zip(shown, widths)).rstrip())


class Leg:
    """Rows of one leg on one engine."""

    def __init__(self, table, name, engine):
        self.table, self.name, self.engine = table, name, engine

    def figure(self, what, figure, criterion, passed):
        self.table.add(self.name, self.engine, what, figure, criterion, "pass" if passed else "FAIL")

    def at_most(self, what, value, limit, unit="s", of_time=True):
        """A figure that may not be larger; limits on time stretch with the machine."""
        stretched = limit * Options.slack if of_time else limit
        shown = "none" if value is None else f"{value:.3g} {unit}"
        self.figure(what, shown, f"<= {stretched:.3g} {unit}", value is not None and value <= stretched)

    def none(self, what, found):
        """Something that must not be there at all."""
        found = list(found)
        shown = "0" if not found else f"{len(found)}: {str(found[0])[:120]}"
        self.figure(what, shown, "0", not found)

    def count(self, what, count, least):
        self.figure(what, count, f">= {least}", count >= least)

    def note(self, what, figure):
        self.table.add(self.name, self.engine, what, figure, "", "")


started = []


def spawn(arguments, **options):
    options.setdefault("stdin", subprocess.DEVNULL)
    process = subprocess.Popen([str(a) for a in arguments], **options)
    started.append(process)
    return process


def end(process, how=signal.SIGTERM, wait=20):
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.send_signal(how)
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process in started:
        started.remove(process)


def end_all():
    for process in reversed(started.copy()):
        end(process, signal.SIGKILL)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Upstream:
    """The upstream process and the truth that it wrote."""

    def __init__(self, folder, name="upstream"):
        self.log, self.mode_file = folder / f"{name}.log", folder / f"{name}.mode"
        self.log.touch()
        self.port = None
        self.start()

    def start(self):
        extra = [self.port] if self.port else []
        self.process = spawn([sys.executable, HERE / "upstream.py", self.log, self.mode_file, *extra], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())

    def stop(self):
        end(self.process, signal.SIGKILL)

    def mode(self, mode):
        fresh = self.mode_file.with_suffix(".new")
        fresh.write_text(mode)
        fresh.rename(self.mode_file)

    def served(self):
        """(milliseconds, method, path) of each request that arrived."""
        rows = (line.split(" ") for line in self.log.read_text().splitlines())
        return [(float(at), method, path) for at, method, path in rows]


class Door:
    """An installation: provider and its people, gateway, upstream."""

    def __init__(self, folder, engine="SQLite", database=None, limits=None, upstream=None, settings=""):
        self.folder, self.engine, self.wrap, self.extra = folder, engine, [], {}
        folder.mkdir(parents=True, exist_ok=True)
        self.created = None
        if engine == "PostgreSQL" and database is None:
            database = self.create_database()
        self.database = database
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("DOORWARD")}
        self.environment["DOORWARD_HOME"] = str(folder / "home")
        self.environment["NO_COLOR"] = "1"
        for limit in ("CONNECTIONS_PER_ADDRESS", "REQUESTS_PER_SECOND_PER_ADDRESS", "BURST_PER_ADDRESS"):
            self.environment[f"DOORWARD__SERVER__LIMITS__{limit}"] = "1000000"
        # What is still open when a leg is over is not waited for.
        self.environment["DOORWARD__SERVER__DRAIN"] = "3s"
        self.environment |= limits or {}
        self.upstream = upstream or Upstream(folder)
        self.dir = folder / "door"
        self.parts = None
        self.start_parts()
        if settings:
            with self.config.open("a") as file:
                file.write(settings)
        self.steady("ops-api", self.upstream.port)
        self.process = None
        self.people = {}

    def create_database(self):
        if not Options.postgres:
            raise Skip("no PostgreSQL (DOORWARD_TEST_POSTGRES)")
        self.created = f"doorward_fault_{os.getpid()}_{time.monotonic_ns()}"
        sql(Options.postgres, f"create database {self.created}")
        return re.sub(r"/[^/]*$", f"/{self.created}", Options.postgres)

    def start_parts(self):
        where = [] if self.dir.exists() else ["--listen", "127.0.0.1:0"]
        url = ["--database", self.database] if self.database else []
        self.parts = spawn([Options.binary, "dev", "--parts-only", "--json", *where, "--dir", self.dir, *url], text=True,
                           stdout=subprocess.PIPE, stderr=(self.folder / "parts.log").open("a"), env=self.environment)
        event = {}
        for line in self.parts.stdout:
            event = json.loads(line)
            if event["event"] == "ready":
                break
        if event.get("event") != "ready":
            raise RuntimeError(f"`doorward dev --parts-only` ended: {(self.folder / 'parts.log').read_text()[-2000:]}")
        self.config, self.ca = Path(event["config"]), event["ca"]
        self.control, self.telemetry = event["control"], event["telemetry"].rstrip("/")
        self.port = int(self.control.rsplit(":", 1)[1])
        self.environment |= event["env"]

    def policies(self):
        return self.config.parent / tomllib.loads(self.config.read_text())["policies"]["dir"]

    def steady(self, service, port):
        """Lets a service of the examples go to our upstream, with no limit in the way."""
        path = self.policies() / service / "service.toml"
        text = re.sub(r'upstreams = \[.*?\]', f'upstreams = ["http://127.0.0.1:{port}"]', path.read_text(), flags=re.S)
        text = re.sub(r"\[limits\]\n(?:[^\[\n].*\n|\n)*", "", text)
        path.write_text(text + "\n[limits]\nrequests_per_second = 1000000\nburst = 1000000\n")

    # --- the gateway's process -------------------------------------------------------------------

    def spawn(self, **more):
        self.log = (self.folder / "serve.log").open("a")
        options = {"stdout": self.log, "stderr": self.log, "env": self.environment | self.extra} | more
        self.process = spawn([*self.wrap, Options.binary, "serve", "--config", self.config], **options)

    def start(self, seconds=30, **more):
        """Starts it; seconds until it says that it is ready."""
        began = time.monotonic()
        self.spawn(**more)
        self.wait_ready(seconds)
        return time.monotonic() - began

    def wait_ready(self, seconds=30):
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            if self.process.poll() is not None:
                raise RuntimeError(f"it ended with {self.process.returncode}: {self.told()[-2000:]}")
            if self.ready():
                return time.monotonic() - began
            time.sleep(0.01)
        raise RuntimeError(f"not ready within {seconds} s: {self.told()[-2000:]}")

    def told(self):
        return (self.folder / "serve.log").read_text(errors="replace")

    def ask(self, path):
        try:
            with urllib.request.urlopen(f"{self.telemetry}{path}", timeout=2) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def ready(self):
        status, text = self.ask("/readyz")
        return status == 200 and '"ready"' in text

    def metric(self, name):
        found = re.search(rf"^{re.escape(name)} ([0-9.e+-]+)$", self.ask("/metrics")[1], re.M)
        return float(found[1]) if found else None

    def reload(self):
        self.process.send_signal(signal.SIGHUP)

    def kill(self):
        self.process.kill()
        self.process.wait()
        started.remove(self.process)

    def stop(self):
        """Ends it in order; its exit code."""
        process = self.process
        end(process, signal.SIGTERM, 30)
        return process.returncode

    def fds(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def rss(self):
        """Resident memory in MiB."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024

    def cpu(self):
        """Seconds of CPU so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self):
        for process in (self.process, self.parts, self.upstream.process):
            if process and process.poll() is None:
                end(process, signal.SIGKILL)
        if self.created:
            sql(Options.postgres, f"drop database if exists {self.created} with (force)", check=False)

    # --- its command line ------------------------------------------------------------------------

    def cli(self, *arguments, profile="default", check=True, seconds=60, **more):
        done = subprocess.run([str(a) for a in (Options.binary, "--profile", profile, *arguments)], env=self.environment | more,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds)
        if check and done.returncode:
            raise RuntimeError(f"`doorward {' '.join(map(str, arguments))}` ends with {done.returncode}: {done.stderr[-1500:]}")
        return done

    def read(self, *arguments, profile="default"):
        return json.loads(self.cli(*arguments, "-o", "json", profile=profile).stdout)

    def login(self, *names):
        for name in names:
            self.cli("login", "--as", name, "--provider", "dev", profile=name)
            home = self.folder / "home" / "profiles" / name
            self.people[name] = (home / "certificate.pem", home / "key.pem")

    def context(self, name=None, alpn=("http/1.1",)):
        return caller.trust(self.ca, *(self.people[name] if name else ()), alpn=alpn)

    async def connect(self, name, service="ops-api", context=None):
        return await H1.open(self.port, f"{service}.{DOMAIN}", context or self.context(name))

    async def control_connection(self, context=None):
        return await H1.open(self.port, DOMAIN, context or self.context())

    # --- its record ------------------------------------------------------------------------------

    def export(self, folder=None):
        """The record as carol takes it out: its lines, and the folder of evidence."""
        folder = folder or self.folder / f"evidence-{time.monotonic_ns()}"
        # A program that is not optimised needs a minute for some tens of thousands of events.
        self.cli("audit", "export", "--format", "evidence", "--out", folder, profile="carol", seconds=600)
        return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()], folder

    def verify(self, folder, check=True):
        return self.cli("audit", "verify", folder, profile="carol", check=check, seconds=600)


def sql(url, text, check=True):
    done = subprocess.run(["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", url, "-c", text], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL)
    if check and done.returncode:
        raise RuntimeError(f"psql: {done.stderr}")
    return done.stdout.strip()


class Cluster:
    """A PostgreSQL server that can be stopped, full, and in the way."""

    def __init__(self, folder, connections=100):
        programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        if not programs or not (programs[-1] / "pg_ctl").exists():
            raise Skip("PostgreSQL's programs are not installed")
        self.programs, self.folder, self.port = programs[-1], folder, free_port()
        folder.mkdir(parents=True)
        if os.getuid() == 0:
            shutil.chown(folder, "nobody")
            for above in folder.parents:
                if above != Path("/tmp") and above.is_relative_to("/tmp"):
                    above.chmod(0o755)
        self.url = f"postgres://postgres@127.0.0.1:{self.port}/postgres"
        self.run("initdb", "-D", folder / "data", "-U", "postgres", "-A", "trust", "--no-sync")
        self.options = (f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c log_connections=on "
                        f"-c max_connections={connections} -c superuser_reserved_connections=0")
        self.start()

    def run(self, program, *arguments):
        who = ["runuser", "-u", "nobody", "--"] if os.getuid() == 0 else []
        done = subprocess.run([str(a) for a in (*who, self.programs / program, *arguments)], cwd="/", stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stderr}")

    def start(self):
        self.run("pg_ctl", "-D", self.folder / "data", "-l", self.folder / "log", "-w", "-o", self.options, "start")

    def stop(self, mode="fast"):
        self.run("pg_ctl", "-D", self.folder / "data", "-m", mode, "-w", "stop")

    def log(self):
        return (self.folder / "log").read_text(errors="replace")

    def close(self):
        try:
            self.stop("immediate")
        except RuntimeError:
            pass


class Load:
    """So many requests a second, each with a path of its own; remembers what each came to."""

    def __init__(self, door, name="alice", rate=200, connections=8, service="ops-api", prefix="", protocol="h1", method="GET"):
        self.door, self.name, self.rate, self.connections, self.service = door, name, rate, connections, service
        self.prefix, self.protocol, self.method = prefix, protocol, method
        self.number, self.over, self.expected_end = 0, False, False
        self.answered, self.refused, self.broken, self.seconds, self.sent = [], [], [], [], []
        self.tasks = []

    def start(self):
        alpn = ("h2",) if self.protocol == "h2" else ("http/1.1",)
        context = self.door.context(self.name, alpn)
        self.tasks = [asyncio.create_task(self.run(context, number)) for number in range(self.connections)]
        return self

    async def stop(self):
        self.over = True
        await asyncio.gather(*self.tasks)
        return self

    def clear(self):
        self.answered, self.refused, self.broken, self.seconds = [], [], [], []

    async def run(self, context, number):
        kind = caller.H2 if self.protocol == "h2" else H1
        pause, connection = self.connections / self.rate, None
        await asyncio.sleep(pause * number / self.connections)
        due = time.monotonic()
        while not self.over:
            due += pause
            self.number += 1
            path = f"/echo/{self.prefix}{number}-{self.number}"
            began = time.monotonic()
            try:
                if connection is None:
                    connection = await kind.open(self.door.port, f"{self.service}.{DOMAIN}", context)
                    began = time.monotonic()
                self.sent.append(path)
                answer = await connection.ask(self.method, path, body=b"x" if self.method == "POST" else None)
                if answer.status == 200:
                    self.answered.append(path)
                    self.seconds.append(time.monotonic() - began)
                else:
                    self.refused.append((answer.status, answer.reason(), path, time.monotonic() - began, answer.body))
                if answer.headers.get("connection", "").lower() == "close":
                    connection = None
            except Broken as error:
                connection = None
                self.broken.append((str(error), path, time.monotonic() - began))
            if not self.over:
                await asyncio.sleep(max(0.0 if connection else 0.02, due - time.monotonic()))
                due = max(due, time.monotonic() - 0.5)
        if connection:
            connection.close()


def path_of(event):
    """The path of an event's request, wherever the line keeps it."""
    return find(event, "path")


def find(value, key):
    """The first value under a key, at any depth."""
    if isinstance(value, dict):
        if key in value and value[key] is not None:
            return value[key]
        value = value.values()
    elif not isinstance(value, list):
        return None
    for inner in value:
        found = find(inner, key)
        if found is not None:
            return found
    return None
