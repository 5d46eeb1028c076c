#!/usr/bin/env python3
"""`spillway inspect` against the listings that the Python packages made: test_inspect.py SPILLWAY GOLDEN_FOLDER"""

import json
import pathlib
import subprocess
import sys

SPILLWAY, GOLDEN = sys.argv[1], pathlib.Path(sys.argv[2])
MODELS = {
    "all_types": "all_types.gguf",
    "split": "split-00001-of-00003.gguf",
    "one_shard": "one_shard",
    "three_shards": "three_shards",
}


def inspect(*arguments):
    return subprocess.run([SPILLWAY, "inspect", *map(str, arguments)], capture_output=True, text=True, timeout=60)


def expected_tensors(listing):
    for line in listing.read_text().splitlines():
        word, name, *rest = line.split(" ")
        if word == "tensor":
            kind, shape, file, offset, size, _ = rest
            yield {"name": name, "type": kind, "shape": [] if shape == "-" else [int(n) for n in shape.split("x")],
                   "file": file, "offset": int(offset), "bytes": int(size)}


def check_json(name, model):
    answer = inspect(GOLDEN / model, "--json")
    assert answer.returncode == 0 and answer.stderr == "", answer.stderr
    report = json.loads(answer.stdout)
    expected = list(expected_tensors(GOLDEN / (name + ".listing")))
    got = [{key: tensor[key] for key in expected[0]} for tensor in report["tensors"]]
    for tensor in got:
        tensor["file"] = pathlib.Path(tensor["file"]).name
    assert got == expected, (got, expected)
    assert report["totals"]["tensors"] == len(expected)
    assert report["totals"]["bytes"] == sum(tensor["bytes"] for tensor in expected)
    assert [t["name"] for t in report["tensors"] if not t["supported"]] == [
        t["name"] for t in expected if t["type"] in ("i32", "i64")]


def check_values():
    keys = json.loads(inspect(GOLDEN / "all_types.gguf", "--json").stdout)["metadata"]
    assert keys["test.i8"] == -100 and keys["test.f64"] == 0.1 and keys["test.bool"] is True
    assert keys["test.flags"] == [True, False, True]
    assert keys["test.tokens"]["count"] == 50 and keys["test.tokens"]["first"][:3] == ["", "t1", "t2t2"]


def check_text(name, model):
    answer = inspect(GOLDEN / model)
    assert answer.returncode == 0 and answer.stderr == "", answer.stderr
    for tensor in expected_tensors(GOLDEN / (name + ".listing")):
        assert "  %s " % tensor["name"] in answer.stdout, tensor["name"]


def check_refusals():
    answer = inspect(GOLDEN / "make_weights.py")
    assert answer.returncode == 65 and answer.stdout == "", answer
    assert answer.stderr.startswith("spillway: error[E-MODEL-FORMAT]") and answer.stderr.count("\n") == 1, answer.stderr
    assert inspect(GOLDEN / "nowhere.gguf").returncode == 66
    assert inspect().returncode == 64


checks = [(check_json, item) for item in MODELS.items()] + [(check_text, item) for item in MODELS.items()]
checks += [(check_values, ()), (check_refusals, ())]
for check, arguments in checks:
    check(*arguments)
print("%d passed, 0 failed, 0 skipped" % len(checks))
