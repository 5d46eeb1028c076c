# shellcheck shell=bash
# Sourced by node.sh and two_nodes.sh.

# Runs a command to its end: signals that would end this script become USR1, a drain, and after a lost rank (76, or 128 and the
# signal that killed it) the command runs again and goes on, MAX_RESTARTS times at most (20). Exits with the last code.
run_again() {
  local restarts code child='' stopped=no
  trap 'stopped=yes; kill -USR1 "$child" 2>/dev/null' TERM INT HUP USR1
  for ((restarts = 0; ; restarts++)); do
    "$@" &
    child=$!
    wait "$child"
    code=$?
    # A signal that was caught ends `wait`, but not the command.
    while [ "$code" -gt 128 ] && kill -0 "$child" 2>/dev/null; do
      wait "$child"
      code=$?
    done
    if [ "$stopped" = yes ]; then
      # Asked to end, it ended, if only because mpirun did not listen yet.
      [ "$code" -le 128 ] || code=75
      exit "$code"
    fi
    if [ "$code" -le 75 ] || [ "$restarts" -ge "${MAX_RESTARTS:-20}" ]; then
      exit "$code"
    fi
    printf '%s: exit code %d, going on\n' "$(basename "$0")" "$code" >&2
  done
}
