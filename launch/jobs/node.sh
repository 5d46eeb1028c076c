#!/usr/bin/env bash
# A batch on this node, without a scheduler: a rank a GPU that CUDA_VISIBLE_DEVICES shows, or without GPUs a rank a socket.
#
#     [RANKS=N] launch/jobs/node.sh MODEL INPUT OUTPUT [options of spillway batch …]
#
# TERM or Ctrl-C drains and exits with 75; the same command goes on. A lost rank is no end: see again.sh.
set -u
# shellcheck source=launch/jobs/again.sh
. "$(dirname "$0")/again.sh"
model=${1:?MODEL} input=${2:?INPUT} output=${3:?OUTPUT}
shift 3

spillway=$(find_needed spillway) || exit

# As CUDA reads the list: numbers, or identities, up to the first that is none.
visible_gpus() {
  local listed names name count=0
  listed=$(nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU ')
  IFS=, read -ra names <<<"${CUDA_VISIBLE_DEVICES-$(seq -s , 0 $((listed - 1)))}"
  for name in "${names[@]}"; do
    case $name in
    GPU-* | MIG-*) ;;
    '' | *[!0-9]*) break ;;
    *) [ "$name" -lt "$listed" ] || break ;;
    esac
    count=$((count + 1))
  done
  echo "$count"
}
gpus=$(visible_gpus)
sockets=$(lscpu --parse=socket | grep -v '^#' | sort -u | wc -l)
ranks=${RANKS:-$((gpus > 0 ? gpus : sockets))}

# Several ranks: spillway starts mpirun itself, and stays its parent.
run_again "$spillway" batch "$model" --ranks "$ranks" --input "$input" --output "$output" "$@"
