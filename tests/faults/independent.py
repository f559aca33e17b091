"""The record checked by what its README says, with none of the program: RFC 9162's tree over the leaves,
the salted commitments of each event, the roots that the checkpoints name."""

import base64
import hashlib
import json


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


def opened(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def holds(line):
    """Whether one line's content is what its leaf commits to, and what it shows is what the leaf says."""
    event = json.loads(line)
    leaf = json.loads(event["leaf"])
    if (event["seq"], event["type"], event["time"], event["node"]) != (leaf["seq"], leaf["type"], leaf["time"], leaf["log"]):
        return False
    if "withheld" in event:
        return True
    values = {"body": (event["body"], leaf["body"])}
    values |= {name: (value, leaf["personal"].get(name)) for name, value in event.get("personal", {}).items()}
    for name, (value, committed) in values.items():
        seen = hashlib.sha256(opened(event["salts"][name]) + name.encode() + b"\x00" + value.encode()).digest()
        if committed is None or seen != opened(committed):
            return False
    return True


def sums(manifest):
    """(file, SHA-256) of the manifest."""
    return [(file["name"], file["sha256"]) for file in manifest["files"]]


def verify(folder):
    """What is wrong with a whole export, as (index, words); none where all of it holds."""
    wrong, logs = [], {}
    # Beside the leaf a line shows the same once more for people; the sums hold that part.
    for name, told in sums(json.loads((folder / "manifest.json").read_text())):
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != told:
            wrong.append((None, f"{name} is not the file of the manifest"))
    for index, line in enumerate((folder / "events.jsonl").read_bytes().splitlines()):
        try:
            if not holds(line):
                wrong.append((index, "a line is not what its leaf says"))
            event = json.loads(line)
            hashes = logs.setdefault(event["node"], [])
            if event["seq"] != len(hashes):
                wrong.append((index, f"number {event['seq']} where {len(hashes)} is due"))
            hashes.append(leaf_hash(event["leaf"].encode()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            wrong.append((index, f"a line can't be read: {error!r}"))
    named = {}
    lines = (folder / "checkpoints.txt").read_text().split("\n")
    for at, line in enumerate(lines[:-2]):
        # A note is name, size and root, an empty line, and signatures, which begin with a dash.
        if line.startswith("doorward-") and "/nod_" in line and lines[at + 1].isdigit():
            named[line.rsplit("/", 1)[1]] = (int(lines[at + 1]), lines[at + 2])
    for node in named.keys() | logs.keys():
        hashes = logs.get(node, [])
        size, told = named.get(node, (None, None))
        if size is None:
            wrong.append((None, f"{node} has no checkpoint"))
        elif len(hashes) != size:
            wrong.append((None, f"{node} has {len(hashes)} of {size} events"))
        elif base64.b64encode(root(hashes)).decode() != told:
            wrong.append((None, f"{node} has another root than its checkpoint"))
    return wrong
