"""Reads what the record's tree says of itself (JSON on standard input) and holds it against pymerkle, an
implementation of RFC 9162 by others, and signed checkpoints against OpenSSL's Ed25519. Prints what was
compared; each difference is a line of its own and ends it with 1. Proofs of consistency are of another form
there; `tests/it/audit_independent.rs` holds them against another implementation.

{"leaves": [base64], "roots": [[size, base64]], "inclusion": [[index, size, [base64]]], "notes": [[note, key]]}
"""

import base64
import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

from pymerkle import InmemoryTree, verify_inclusion

warnings.simplefilter("ignore", DeprecationWarning)
differences = []


def hashes(written):
    return [base64.b64decode(text, validate=True) for text in written]


def differs(what, ours, theirs):
    if ours != theirs:
        differences.append(f"{what}: we have {ours!r}, they have {theirs!r}")


def holds(what, check, *arguments):
    try:
        check(*arguments)
    except Exception as error:
        differences.append(f"{what}: {type(error).__name__}: {error}")


def compare_tree(said):
    tree = InmemoryTree(algorithm="sha256")
    for leaf in hashes(said["leaves"]):
        tree.append_entry(leaf)
    root = tree.get_root if hasattr(tree, "get_root") else tree.get_state
    roots = {size: base64.b64decode(text) for size, text in said["roots"]}
    for size, ours in roots.items():
        differs(f"the root of {size} leaves", ours.hex(), root(size).hex())
    for index, size, written in said["inclusion"]:
        # They count from one, and their path begins with the leaf's own hash.
        proof = tree.prove_inclusion(index + 1, size)
        what = f"the inclusion of leaf {index} in {size}"
        differs(what, [hash.hex() for hash in hashes(written)], [hash.hex() for hash in proof.path[1:]])
        proof.path = [tree.get_leaf(index + 1), *hashes(written)]
        holds(what, verify_inclusion, tree.get_leaf(index + 1), roots[size], proof)


def compare_note(note, key):
    """A C2SP signed note: its text, a blank line, and a line with name, key id and signature."""
    name, key_id, packed = key.split("+", 2)
    public = base64.b64decode(packed)[1:]
    text, _, signatures = note.partition("\n\n")
    _, signer, packed = signatures.strip().split(" ")
    signature = base64.b64decode(packed)
    differs("the name of a note's signer", signer, name)
    differs("the key id of a note", signature[:4].hex(), key_id)
    with tempfile.TemporaryDirectory() as folder:
        files = {"text": f"{text}\n".encode(), "signature": signature[4:],
                 "key": bytes.fromhex("302a300506032b6570032100") + public}
        for file, content in files.items():
            (Path(folder) / file).write_bytes(content)
        command = ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-keyform", "DER", "-inkey", "key",
                   "-in", "text", "-sigfile", "signature"]
        outcome = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if outcome.returncode:
        differences.append(f"the signature of {name}: {outcome.stdout.strip()} {outcome.stderr.strip()}")


said = json.load(sys.stdin)
compare_tree(said)
for note, key in said["notes"]:
    compare_note(note, key)
for difference in differences[:20]:
    print(difference)
print(f"{len(said['roots'])} roots, {len(said['inclusion'])} inclusion proofs, {len(said['notes'])} signatures compared; "
      f"{len(differences)} differ")
sys.exit(1 if differences else 0)
