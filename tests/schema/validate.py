"""Reads events, one a line, from standard input and checks each against the JSON Schema (2020-12) whose
file is the argument, and that schema against its own. Prints what does not hold and ends with 1."""

import json
import multiprocessing
import sys

from jsonschema import Draft202012Validator

schema = json.load(open(sys.argv[1]))
validator = Draft202012Validator(schema)


def faults_of(line):
    event = json.loads(line)
    return [f"{event.get('type')}: {'/'.join(map(str, error.path))}: {error.message[:300]}" for error in validator.iter_errors(event)]


if __name__ == "__main__":
    Draft202012Validator.check_schema(schema)
    faults, count = 0, 0
    # A process for each core: some of these events take a millisecond.
    with multiprocessing.get_context("fork").Pool() as pool:
        for found in pool.imap(faults_of, sys.stdin, chunksize=200):
            count += 1
            faults += len(found)
            for fault in found:
                print(fault)
    print(f"{count} events, {faults} faults")
    sys.exit(1 if faults or not count else 0)
