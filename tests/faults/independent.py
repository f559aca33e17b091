"""The record checked by what its README says, with none of the program: RFC 9162's tree over the leaves,
the salted commitments of each event, the roots that the checkpoints name. And what F14 does to a record:
one change each, by somebody who makes the sums of the manifest fit again, since nobody signed those."""

import base64
import collections
import hashlib
import json
import os

EVENTS, CHECKPOINTS, MANIFEST = "events.jsonl", "checkpoints.txt", "manifest.json"
# What a leaf of this version has, in this order; `service` not always.
LEAF = ("v", "log", "seq", "time", "type", "service", "outcome", "body", "personal")
# What of a line proves the rest of it.
PROVES = ("leaf", "body", "personal", "salts", "erased")
# Where the personal values stand that people read.
PERSONAL = {"actor": {"principal": "principal", "email": "email", "device": "device", "address": "address"},
            "subject": {"principal": "subject"}, "request": {"path": "path"}}
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError)


def leaf_hash(leaf):
    return hashlib.sha256(b"\x00" + leaf).digest()


def root(hashes):
    """MTH of RFC 9162 §2.1.1."""
    if not hashes:
        return hashlib.sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    split = 1
    while split * 2 < len(hashes):
        split *= 2
    return hashlib.sha256(b"\x01" + root(hashes[:split]) + root(hashes[split:])).digest()


def sealed(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def opened(text):
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    # A decoder passes over bits that stand behind the last byte.
    if sealed(data) != text:
        raise ValueError("a salt is not in its one form")
    return data


def commitment(salt, name, value):
    return sealed(hashlib.sha256(opened(salt) + name.encode() + b"\x00" + value.encode()).digest())


def written(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def shown(event, leaf):
    """The part for people, as leaf, body and personal values say it."""
    clear = {key: leaf[key] for key in ("seq", "type", "time", "outcome", "service") if key in leaf}
    told = json.loads(event["body"]) | clear | {"node": leaf["log"]}
    for part, names in PERSONAL.items():
        if part in told:
            told[part] |= {key: event["personal"][name] for key, name in names.items() if name in event["personal"]}
    return told


def held(line):
    """(log, number, leaf's hash) of a line that is what its leaf commits to; an error where it is not."""
    text = line.decode()
    event = json.loads(text)
    leaf = json.loads(event["leaf"])
    if written(event) + "\n" != text or list(leaf) != [key for key in LEAF if key != "service" or key in leaf] or leaf["v"] != 1:
        raise ValueError("line or leaf is not in its one form")
    if "withheld" in event:
        seen, due = (event["seq"], event["type"], event["time"], event["node"]), (leaf["seq"], leaf["type"], leaf["time"], leaf["log"])
    else:
        values = {"body": (event["body"], leaf["body"])}
        values |= {name: (value, leaf["personal"].get(name)) for name, value in event["personal"].items()}
        for name, (value, committed) in values.items():
            if commitment(event["salts"][name], name, value) != committed:
                raise ValueError(f"`{name}` is not what the leaf commits to")
        seen, due = {key: value for key, value in event.items() if key not in PROVES}, shown(event, leaf)
        if event["salts"].keys() != values.keys():
            raise ValueError("there are salts of nothing")
    if seen != due:
        raise ValueError("what is shown is not what leaf and body say")
    return leaf["log"], leaf["seq"], leaf_hash(event["leaf"].encode())


def split(data):
    """Lines with their line feeds, and what stands behind the last one."""
    return [line + b"\n" for line in data.split(b"\n")[:-1]] + ([last] if (last := data.rpartition(b"\n")[2]) else [])


def roots(checkpoints):
    """Size and root of each node's log, by what the checkpoints say."""
    named, lines = {}, checkpoints.split("\n")
    for at, line in enumerate(lines[:-2]):
        # A note is name, size and root, an empty line, and signatures, which begin with a dash.
        if line.startswith("doorward-") and "/nod_" in line and lines[at + 1].isdigit():
            named[line.rsplit("/", 1)[1]] = (int(lines[at + 1]), lines[at + 2])
    return named


def first_wrong(lines, named, known):
    """The first thing that is wrong with these lines, as (index, words); `known` are lines that hold."""
    logs = {}
    for index, line in enumerate(lines):
        try:
            node, number, leaf = known.get(line) or held(line)
        except UNREADABLE as error:
            return index, f"a line is not what it was: {error!r}"
        hashes = logs.setdefault(node, [])
        if number != len(hashes):
            return index, f"number {number} where {len(hashes)} is due"
        hashes.append(leaf)
    for node in named.keys() | logs.keys():
        hashes, (size, told) = logs.get(node, []), named.get(node, (0, None))
        if len(hashes) != size:
            return min(len(hashes), size), f"{node} has {len(hashes)} of {size} events"
        if base64.b64encode(root(hashes)).decode() != told:
            return None, f"{node} has another root than its checkpoint"
    return None


def verify(folder):
    """What is wrong with a whole export, as (index, words); none where all of it holds."""
    wrong = []
    for file in json.loads((folder / MANIFEST).read_text())["files"]:
        if hashlib.sha256((folder / file["name"]).read_bytes()).hexdigest() != file["sha256"]:
            wrong.append((None, f"{file['name']} is not the file of the manifest"))
    found = first_wrong(split((folder / EVENTS).read_bytes()), roots((folder / CHECKPOINTS).read_text()), {})
    return wrong + [found] if found else wrong


# --- what is done to it ------------------------------------------------------------------------------

# What, the index of the first event that is not what it was (none where no event can be named), the lines, other files.
Change = collections.namedtuple("Change", "what kind first lines files")

# The tree and what it rests on have to find these; in the last two only signatures tell.
OF_LINES = ("flip", "flip", "flip", "flip", "delete", "double", "swap", "cut", "rewrite")
OF_SIGNATURES = ("forge", "other")


def rewritten(line):
    """The event under another id, with everything in its line made to fit."""
    event = json.loads(line)
    leaf, body = json.loads(event["leaf"]), json.loads(event["body"])
    event["id"] = body["id"] = body["id"][:-1] + ("0" if body["id"][-1] != "0" else "1")
    event["body"] = written(body)
    leaf["body"] = commitment(event["salts"]["body"], "body", event["body"])
    event["leaf"] = written(leaf)
    return (written(event) + "\n").encode()


def flipped(data, chance):
    changed = bytearray(data)
    changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def change(kind, evidence, lines, chance):
    """One change of this kind, anywhere."""
    at, changed, files = chance.randrange(len(lines)), list(lines), {}
    first = at
    if kind == "flip":
        # A line feed that comes or goes makes two lines of one, or one of two.
        changed[at:at + 2] = split(flipped(lines[at], chance) + b"".join(lines[at + 1:at + 2]))
    elif kind == "delete":
        del changed[at]
    elif kind == "double":
        changed.insert(at, lines[at])
        # Behind the last event there is none that could be named.
        first = at + 1 if at + 1 < len(lines) else None
    elif kind == "swap":
        at = first = min(at, len(lines) - 2)
        changed[at:at + 2] = changed[at + 1], changed[at]
    elif kind == "cut":
        changed[at:] = split(lines[at][:chance.randrange(len(lines[at]))])
    elif kind in ("rewrite", "forge"):
        changed[at], first = rewritten(lines[at]), None
        if kind == "forge":
            text = (evidence / CHECKPOINTS).read_text()
            node, _, leaf = held(changed[at])
            hashes = [leaf if number == at else held(line)[2] for number, line in enumerate(lines)]
            files[CHECKPOINTS] = text.replace(roots(text)[node][1], base64.b64encode(root(hashes)).decode()).encode()
    else:
        name, first = chance.choice([CHECKPOINTS, "installation.log", "proofs.json", MANIFEST]), None
        files[name] = flipped((evidence / name).read_bytes(), chance)
        return Change(f"flip in {name}", kind, first, lines, files)
    return Change(f"{kind} at event {at}", kind, first, changed, files)


def put(change, evidence, folder):
    """A copy of the export with the change in it; sizes and sums of its manifest fit again."""
    files = dict(change.files)
    if change.kind != "other":
        files[EVENTS] = b"".join(change.lines)
    if MANIFEST not in files:
        manifest = json.loads((evidence / MANIFEST).read_text())
        for file in manifest["files"]:
            if file["name"] in files:
                data = files[file["name"]]
                file |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        files[MANIFEST] = (json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode()
    folder.mkdir()
    for path in evidence.iterdir():
        if path.name in files:
            (folder / path.name).write_bytes(files[path.name])
        else:
            os.link(path, folder / path.name)
