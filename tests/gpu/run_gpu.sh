#!/usr/bin/env bash
# Everything that needs a GPU, in one go, on a node that has some:
#
#     tests/gpu/run_gpu.sh [--dry-run] [--model PATH] [--output DIR] [--build DIR] [--quick] [--only 'NAME …'] [--limit SECONDS]
#
# Builds for the GPUs that are here, checks every kernel against the specification, again under compute-sanitizer, runs the properties
# of the engine and the golden models on one GPU, on two and on as many as there are, wherever layers, keys and values lie, takes the
# benchmarks, and writes report.json and report.txt into DIR (gpu-report), anew after each step; what an earlier run left there goes.
# --model is what the benchmarks run, OPT-30B for the goals of the report; without it they are left out.
# --quick leaves the sanitizer and the benchmarks out. --only runs the build and the steps of these names, which may be patterns.
# A step that takes longer than its limit is ended, and the next one runs; no limit is above that of --limit.
# --dry-run prints the plan, a step a line, and needs no GPU.
# Exit 0 all passed, 1 a step failed, was ended or did not run, 77 there is no GPU or no nvcc.
set -euf -o pipefail # -f: names of steps may be patterns
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

dry=no quick=no model='' output=$PWD/gpu-report build=$root/build-gpu only='*' limit_max=86400
while [ $# -gt 0 ]; do
  case $1 in
  --dry-run) dry=yes ;;
  --quick) quick=yes ;;
  --model) model=${2:?--model PATH} && shift ;;
  --output) output=${2:?--output DIR} && shift ;;
  --build) build=${2:?--build DIR} && shift ;;
  --only) only=${2:?--only NAMES} && shift ;;
  --limit) limit_max=${2:?--limit SECONDS} && shift ;;
  *) echo "run_gpu.sh: unknown flag $1" >&2 && exit 64 ;;
  esac
  shift
done

# A line a GPU: its name, PCIe generation and lanes.
gpus() { nvidia-smi --query-gpu=name,pcie.link.gen.max,pcie.link.width.max --format=csv,noheader 2>/dev/null || true; }
gpu_count=$(gpus | grep -c . || true)
if [ "$dry" = no ]; then
  [ "$gpu_count" -gt 0 ] || { echo "run_gpu.sh: skipped: nvidia-smi shows no GPU" && exit 77; }
  command -v nvcc >/dev/null || PATH=$PATH:/usr/local/cuda/bin
  command -v nvcc >/dev/null || { echo "run_gpu.sh: skipped: there is no nvcc" && exit 77; }
elif [ "$gpu_count" -eq 0 ]; then
  gpu_count=4 # a node to plan for
fi

spillway=$build/launch/spillway
check=$build/tests/kernels/check
golden=$root/tests/golden/models

# For the commands of steps: a tool that is not here is a reason to skip.
need() { command -v "$1" >/dev/null || { echo "skipped: there is no $1" && exit 77; }; }
# Nsight Compute needs a right that many nodes keep for root.
counted() {
  need ncu
  ncu --clock-control none --csv --print-units base --log-file "$1" "${@:2}" && return
  ! grep -qs ERR_NVGPUCTRPERM "$1" || { echo "skipped: this user may not read the counters of the GPU" && exit 77; }
  return 1
}
export -f need counted

# Steps: name, tab, seconds that it may take, tab, command. A step that fails does not stop the next; the report has all.
step() {
  local pattern
  for pattern in configure build $only; do
    # shellcheck disable=SC2254 # a pattern is meant
    case $1 in $pattern) printf '%s\t%s\t%s\n' "$1" $(($2 < limit_max ? $2 : limit_max)) "$3" && return ;; esac
  done
}

plan() {
  plan_build
  plan_kernels
  plan_engine
  plan_ranks
  [ "$quick" = yes ] || plan_sanitizer
  [ "$quick" = yes ] || plan_bench
  [ "$quick" = yes ] || [ -z "$model" ] || plan_model
}

plan_build() {
  local again=
  [ ! -e "$build/meson-private/coredata.dat" ] || again=--reconfigure # refused where nothing was configured before
  step configure 600 "meson setup $build $root -Dcuda=enabled -Dgpu_architecture=native -Dbuildtype=release $again"
  step build 3600 "ninja -C $build"
}

plan_kernels() {
  step doctor 120 "$spillway doctor"
  step kernel-resources 3600 "$root/tests/kernels/test_kernel_resources.py --all"
  step device 300 "$build/tests/kernels/test_device"
  step kernels 1200 "$check --variant cuda --seed 1"
  step kernels-explored 3600 "$check --variant cuda --rounds 300"
}

# Arguments of properties: first seed, seeds, backend.
plan_engine() {
  local models="python3 $root/tests/runtime/test_models.py $spillway --backend cuda"
  step invariance 1800 "$build/tests/runtime/test_invariance 1 20 cuda"
  step spilling 1800 "$build/tests/runtime/test_spilling 1 60 cuda"
  step weights-anywhere 1800 "$build/tests/runtime/test_weight_tiers 1 30 cuda"
  step attend-host 900 "$build/tests/runtime/test_attend_host cuda" # and codecs: encoded blocks, there and on the device
  step goldens-1-gpu 1200 "$models --ranks 1"
  step goldens-chunks 1200 "$models --ranks 1 --block-size 16 --chunk 7"
  step goldens-attend-host 1800 "$models --ranks 1 --block-size 4 --attend host"
  step goldens-int4-group 1200 "$models --ranks 1 --weight-type int4_group"
}

# Of two and three ranks, that exchange whole arrays and slices, sums have the bits that host memory gives.
plan_ranks() {
  local ranks models="python3 $root/tests/runtime/test_models.py $spillway --backend cuda"
  for ranks in $(printf '%s\n' 2 "$gpu_count" | sort -nu); do
    [ "$ranks" -lt 2 ] || [ "$ranks" -gt "$gpu_count" ] || step "goldens-$ranks-gpus" 1800 "$models --ranks $ranks"
  done
  for ranks in 2 3; do
    [ "$ranks" -gt "$gpu_count" ] ||
      step "sums-$ranks-gpus" 600 "for way in host nccl; do $spillway logits $golden/gguf_llama_q4_0/gguf_llama_q4_0.gguf --tokens-file $golden/tokens.json --backend cuda --ranks $ranks --comm \$way --output $output/sums-$ranks-\$way.npy || exit 1; done; cmp $output/sums-$ranks-host.npy $output/sums-$ranks-nccl.npy"
  done
  [ "$gpu_count" -lt 2 ] ||
    step faults-of-sums 900 "python3 $root/tests/ranks/test_sum_faults.py $spillway $golden/llama_text cuda"
}

# Attention takes by far the longest under it, so it is a step of its own, of one round.
plan_sanitizer() {
  local tool words
  for tool in memcheck racecheck initcheck synccheck; do
    words="need compute-sanitizer; compute-sanitizer --tool $tool --error-exitcode 1 $check --variant cuda --seed 1"
    step "sanitizer-$tool" 1800 "$words --rounds 2 quant matmul norm rope elementwise embed codec"
    step "sanitizer-$tool-attention" 1800 "$words --rounds 1 attention"
  done
}

# The goal for attention in a decode step: the share of the memory's bandwidth, over the layers of a model whose KV fits a card of 24 GB.
plan_bench() {
  local decode="$spillway bench decode opt-6.7b --random-weights --weight-type q4_0 --backend cuda --ranks 1 --batch-size 32 --random-input-len 768 --synthetic-kv --num-steps 1 --num-steps-warmup 0"
  step bench-kernels 1800 "$check --bench --variant cuda matmul attention norm elementwise rope embed"
  step link 300 "$build/tests/bench/bench_link cuda $gpu_count >$output/link.json"
  step attention-bandwidth 1800 "counted $output/attention-bandwidth.csv --metrics gpu__time_duration.sum,dram__throughput.avg.pct_of_peak_sustained_elapsed --kernel-name regex:attend_tiles --launch-count 32 $decode"
}

# The goals: tokens/s of OPT-30B at batch 128, the share of what the link carries when all KV is streamed, scaling over GPUs.
plan_model() {
  local load="--backend cuda --random-input-len 512 --random-output-len 32 --num-prompts 128 --max-num-seqs 128 --save-result"
  local decode="--backend cuda --batch-size 128 --random-input-len 1024 --synthetic-kv --save-result"
  local ranks
  step throughput-1 7200 "$spillway bench throughput $model $load --ranks 1 --kv-host-size 80% --result-filename $output/throughput-1.json"
  step decode-resident 3600 "$spillway bench decode $model $decode --ranks $gpu_count --result-filename $output/decode-resident.json"
  step decode-streamed 3600 "$spillway bench decode $model $decode --ranks $gpu_count --kv-device-size min --kv-host-size 80% --result-filename $output/decode-streamed.json"
  step decode-weights-from-host 3600 "$spillway bench decode $model $decode --ranks 1 --weights-device-size 20% --weights-host-size 100% --kv-host-size 40% --result-filename $output/decode-weights-from-host.json"
  for ranks in 2 4 8; do
    [ "$ranks" -gt "$gpu_count" ] ||
      step "throughput-$ranks" 7200 "$spillway bench throughput $model $load --ranks $ranks --kv-host-size 80% --result-filename $output/throughput-$ranks.json"
  done
}

if [ "$dry" = yes ]; then
  plan
  exit 0
fi

report() { python3 "$root/tests/gpu/gpu_report.py" "$output" --gpus "$(gpus | sort | uniq -c | paste -sd ';')"; }

child='' stopped=no
stop() {
  stopped=yes
  [ -z "$child" ] || kill "$child" 2>/dev/null || true
}

# To its end, its limit, or a signal to this script.
run_step() {
  local name=$1 limit=$2 command=$3 status=0 begin_ms
  echo "== $name" >&2
  begin_ms=$(($(date +%s%N) / 1000000))
  timeout --kill-after=30 "$limit" bash -c "$command" >"$output/$name.log" 2>&1 </dev/null &
  child=$!
  [ "$stopped" = no ] || stop
  wait "$child" || status=$?
  [ "$stopped" = no ] || wait "$child" || status=$? # the first was ended by the signal
  child=''
  printf '%s\t%s\t%s\t%s\t%s\n' "$name" "$status" $(($(date +%s%N) / 1000000 - begin_ms)) "$limit" "$command" >>"$output/steps.tsv"
  report >/dev/null || true # it says what failed so far
  return "$status"
}

if [ -n "$(ls -A "$output" 2>/dev/null)" ] && [ ! -e "$output/steps.tsv" ]; then
  echo "run_gpu.sh: $output holds something else than a report: name an empty folder" >&2
  exit 64
fi
rm -rf "$output"
mkdir -p "$output"
: >"$output/steps.tsv"
plan >"$output/plan.tsv"
trap report EXIT
trap stop INT TERM HUP
while IFS=$'\t' read -r name limit command <&3; do
  [ "$stopped" = no ] || break
  run_step "$name" "$limit" "$command" || case $name in configure | build) break ;; esac # nothing after it can run
done 3<"$output/plan.tsv"
trap - EXIT
report
