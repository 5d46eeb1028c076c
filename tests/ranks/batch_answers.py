"""What a batch answered, without what may differ from run to run."""

import json
import os


def answers(output):
    """custom_id → choices and usage; fails when a line was answered twice."""
    found = {}
    if not os.path.exists(output):
        return found
    with open(output, encoding="utf-8") as file:
        for line in map(json.loads, file):
            body = line["response"]["body"]
            assert line["custom_id"] not in found, f"{line['custom_id']} was answered twice"
            found[line["custom_id"]] = (body["choices"], body["usage"])
    return found
