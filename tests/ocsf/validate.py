"""Reads OCSF events, one a line, from standard input and checks each against the JSON Schema of its
class (OCSF 1.8.0). Prints what does not hold and ends with 1."""

import json
import sys

from jsonschema import Draft202012Validator
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

schema = OcsfJsonSchemaEmbedded(get_ocsf_schema(version="1.8.0"))
validators, faults, count = {}, 0, 0
for line in sys.stdin:
    event = json.loads(line)
    count += 1
    uid = event["class_uid"]
    if uid not in validators:
        name = schema.lookup_class_name_from_uid(class_uid=uid)
        validators[uid] = Draft202012Validator(schema.get_class_schema(class_name=name))
    for error in validators[uid].iter_errors(event):
        faults += 1
        print(f"{event.get('message')}: {'/'.join(map(str, error.path))}: {error.message[:300]}")
print(f"{count} events, {len(validators)} classes, {faults} faults")
sys.exit(1 if faults or not count else 0)
