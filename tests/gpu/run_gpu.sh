#!/usr/bin/env bash
# Everything that needs a GPU, in one go, on a node that has some:
#
#     tests/gpu/run_gpu.sh [--dry-run] [--model PATH] [--output DIR] [--quick]
#
# Builds for the GPUs that are here, checks every kernel against the specification, again under compute-sanitizer, runs the golden
# models on one GPU and on as many as there are, wherever layers lie, takes the benchmarks, and writes report.json and report.txt into DIR
# (gpu-report). --model is what the benchmarks run, OPT-30B for the goals of the report; without it they are left out.
# --quick leaves the sanitizer and the benchmarks out. --dry-run prints the plan, a step a line, and needs no GPU.
# Exit 0 all passed, 1 a step failed, 77 there is no GPU or no nvcc.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

dry=no quick=no model='' output=$PWD/gpu-report
while [ $# -gt 0 ]; do
  case $1 in
  --dry-run) dry=yes ;;
  --quick) quick=yes ;;
  --model) model=${2:?--model PATH} && shift ;;
  --output) output=${2:?--output DIR} && shift ;;
  *) echo "run_gpu.sh: unknown flag $1" >&2 && exit 64 ;;
  esac
  shift
done

gpus() { nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null || true; }
gpu_count=$(gpus | grep -c . || true)
if [ "$dry" = no ]; then
  [ "$gpu_count" -gt 0 ] || { echo "run_gpu.sh: skipped: nvidia-smi shows no GPU" && exit 77; }
  command -v nvcc >/dev/null || PATH=$PATH:/usr/local/cuda/bin
  command -v nvcc >/dev/null || { echo "run_gpu.sh: skipped: there is no nvcc" && exit 77; }
elif [ "$gpu_count" -eq 0 ]; then
  gpu_count=4 # a node to plan for
fi

build=$root/build-gpu
spillway=$build/launch/spillway
check=$build/tests/kernels/check

# Steps: name, tab, command. A step that fails does not stop the next; the report has all.
plan() {
  step() { printf '%s\t%s\n' "$1" "$2"; }
  step configure "meson setup $build $root -Dcuda=enabled -Dgpu_architecture=native -Dbuildtype=release --reconfigure"
  step build "ninja -C $build"
  step doctor "$spillway doctor"
  step kernel-resources "$root/tests/kernels/test_kernel_resources.py --all"
  step kernels "$check --variant cuda --seed 1"
  step kernels-explored "$check --variant cuda --rounds 300"
  step goldens-1-gpu "python3 $root/tests/runtime/test_models.py $spillway --backend cuda --ranks 1"
  step goldens-chunks "python3 $root/tests/runtime/test_models.py $spillway --backend cuda --ranks 1 --block-size 16 --chunk 7"
  step weights-anywhere "$build/tests/runtime/test_weight_tiers 1 30 cuda"
  if [ "$gpu_count" -ge 2 ]; then
    step goldens-2-gpus "python3 $root/tests/runtime/test_models.py $spillway --backend cuda --ranks 2"
  fi
  plan_sums
  if [ "$quick" = no ]; then
    local tool
    for tool in memcheck racecheck initcheck synccheck; do
      step "sanitizer-$tool" "compute-sanitizer --tool $tool --error-exitcode 1 $check --variant cuda --seed 1 --rounds 2"
    done
    step bench-kernels "$check --bench --variant cuda matmul attention norm elementwise rope embed"
  fi
  [ "$quick" = yes ] || [ -z "$model" ] || plan_model
}

# Two ranks exchange whole arrays, three slices: each with the bits that sums through host memory give.
plan_sums() {
  local golden=$root/tests/golden/models ranks
  for ranks in 2 3; do
    [ "$ranks" -gt "$gpu_count" ] ||
      step "sums-$ranks-gpus" "for way in host nccl; do $spillway logits $golden/gguf_llama_q4_0/gguf_llama_q4_0.gguf --tokens-file $golden/tokens.json --backend cuda --ranks $ranks --comm \$way --output $output/sums-$ranks-\$way.npy || exit 1; done; cmp $output/sums-$ranks-host.npy $output/sums-$ranks-nccl.npy"
  done
}

# The goals: tokens/s of OPT-30B at batch 128, the share of the PCIe bound when all KV is streamed, scaling over GPUs.
plan_model() {
  local load="--backend cuda --random-input-len 512 --random-output-len 32 --num-prompts 128 --max-num-seqs 128 --save-result"
  local decode="--backend cuda --batch-size 128 --random-input-len 1024 --synthetic-kv --save-result"
  local ranks
  step throughput-1 "$spillway bench throughput $model $load --ranks 1 --kv-host-size 80% --result-filename $output/throughput-1.json"
  step decode-resident "$spillway bench decode $model $decode --ranks $gpu_count --result-filename $output/decode-resident.json"
  step decode-streamed "$spillway bench decode $model $decode --ranks $gpu_count --kv-device-size min --kv-host-size 80% --result-filename $output/decode-streamed.json"
  step decode-weights-from-host "$spillway bench decode $model $decode --ranks 1 --weights-device-size 20% --weights-host-size 100% --kv-host-size 40% --result-filename $output/decode-weights-from-host.json"
  for ranks in 2 4 8; do
    [ "$ranks" -gt "$gpu_count" ] ||
      step "throughput-$ranks" "$spillway bench throughput $model $load --ranks $ranks --kv-host-size 80% --result-filename $output/throughput-$ranks.json"
  done
}

if [ "$dry" = yes ]; then
  plan
  exit 0
fi

mkdir -p "$output"
: >"$output/steps.tsv"
while IFS=$'\t' read -r name command; do
  echo "== $name" >&2
  begin_ms=$(($(date +%s%N) / 1000000))
  status=0
  bash -c "$command" >"$output/$name.log" 2>&1 </dev/null || status=$?
  printf '%s\t%s\t%s\t%s\n' "$name" "$status" $(($(date +%s%N) / 1000000 - begin_ms)) "$command" >>"$output/steps.tsv"
  case $name in configure | build) [ "$status" = 0 ] || break ;; esac # nothing after it can run
done < <(plan)
exec python3 "$root/tests/gpu/gpu_report.py" "$output" --gpus "$(gpus | sort | uniq -c | paste -sd ';')"
