#!/usr/bin/env bash
# A batch over two nodes, or as many as HOSTFILE lists, by mpirun without a scheduler:
#
#     launch/jobs/two_nodes.sh HOSTFILE MODEL INPUT OUTPUT [options of spillway batch …]
#
# HOSTFILE has a line a node, "NAME slots=N" with N ranks: one a GPU, or one a socket. The nodes see the same files under the
# same names, and ssh from this one to the others asks for no password. Signals and lost ranks: as in node.sh.
set -u
# shellcheck source=launch/jobs/again.sh
. "$(dirname "$0")/again.sh"
hosts=${1:?HOSTFILE} model=${2:?MODEL} input=${3:?INPUT} output=${4:?OUTPUT}
shift 4

spillway=$(find_needed spillway) || exit
find_needed mpirun >/dev/null
words=(--hostfile "$hosts" --quiet
  --bind-to none # else each of two ranks a node gets one core, for all its threads
  --mca btl_vader_single_copy_mechanism none) # refused in many containers, and not needed
# Unless told to look, Open MPI takes minutes to notice that a node is gone.
words+=(--mca oob_tcp_keepalive_time 10 --mca oob_tcp_keepalive_intvl 2 --mca oob_tcp_keepalive_probes 5)
# Where --kv-nvme-size spills to unless told: the same folder name on each node, the node's own disk.
[ -z "${TMPDIR:-}" ] || words+=(-x TMPDIR)
# Options that are set as variables here are to be those of every rank.
for name in "${!SPILLWAY_@}"; do words+=(-x "$name"); done
[ "$(id -u)" != 0 ] || words+=(--allow-run-as-root)

run_again mpirun "${words[@]}" "$spillway" batch "$model" --input "$input" --output "$output" "$@"
