#!/usr/bin/env python3
"""Adds up what all tests of some meson logs (testlog.json) counted: the programs' own "N passed, N failed, N skipped"
or cmocka's summary where there is one, else one a test. Names what failed, with the end of what it printed, and why
something was skipped; the last line is the sum. Exit 1 when anything failed or nothing ran."""
import json
import pathlib
import re
import sys

OWN = re.compile(r"^(\d+) passed, (\d+) failed, (\d+) skipped$", re.MULTILINE)
TAIL_LINES = 25  # of a test that failed
CMOCKA = {word: re.compile(rf"^\[ *{word} *\] (\d+) test", re.MULTILINE) for word in ("PASSED", "FAILED", "SKIPPED")}


def printed(test):
    """Its lines that are not blank."""
    return [x for x in (test.get("stdout", "") + test.get("stderr", "")).splitlines() if x.strip()]


def counts(test):
    """(passed, failed, skipped) of one meson test."""
    text = test.get("stdout", "") + "\n" + test.get("stderr", "")
    own = OWN.findall(text)
    found = {word: pattern.search(text) for word, pattern in CMOCKA.items()}
    if own:
        passed, failed, skipped = map(int, own[-1])
    elif found["PASSED"]:
        passed, failed, skipped = (int(match.group(1)) if match else 0 for match in found.values())
    else:
        passed, failed, skipped = test["result"] in ("OK", "EXPECTEDFAIL"), 0, test["result"] == "SKIP"
    if test["result"] not in ("OK", "EXPECTEDFAIL", "SKIP"):
        failed = max(failed, 1)  # a crash or a time-out counts even where the program had counted none
    return int(passed), int(failed), int(skipped)


def main():
    total = [0, 0, 0]
    for log in sys.argv[1:]:
        for line in pathlib.Path(log).read_text().splitlines():
            test = json.loads(line)
            numbers = counts(test)
            total = [a + b for a, b in zip(total, numbers)]
            if numbers[1]:
                print(f"failed: {test['name']} ({test['result'].lower()}, {log}); it printed last:")
                print("\n".join("    " + x for x in printed(test)[-TAIL_LINES:]))
            elif test["result"] == "SKIP":
                lines = printed(test)
                reasons = [x for x in lines if not OWN.match(x)]
                print(f"skipped: {test['name']}: {reasons[-1] if reasons else 'no reason given'}")
    print(f"{total[0]} passed, {total[1]} failed, {total[2]} skipped")
    return 1 if total[1] or not total[0] else 0


if __name__ == "__main__":
    sys.exit(main())
