"""Reads events, one a line, from standard input and checks each against the JSON Schema (2020-12) whose
file is the argument, and that schema against its own. Prints what does not hold and ends with 1."""

import json
import sys

from jsonschema import Draft202012Validator

schema = json.load(open(sys.argv[1]))
Draft202012Validator.check_schema(schema)
validator = Draft202012Validator(schema)
faults, count = 0, 0
for line in sys.stdin:
    event = json.loads(line)
    count += 1
    for error in validator.iter_errors(event):
        faults += 1
        print(f"{event.get('type')}: {'/'.join(map(str, error.path))}: {error.message[:300]}")
print(f"{count} events, {faults} faults")
sys.exit(1 if faults or not count else 0)
