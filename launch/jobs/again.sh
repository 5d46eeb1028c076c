# shellcheck shell=bash
# Sourced by node.sh and two_nodes.sh.

# Runs a command to its end: signals that would end this script become USR1, a drain, and after a lost rank (76, or 128 and the
# signal that killed it) the command runs again and goes on, MAX_RESTARTS times at most (20). Exits with the last code.
run_again() {
  local restarts code child stopped=no
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
    [ "$stopped" = no ] || [ "$code" -le 128 ] || code=75
    [ "$code" -gt 75 ] && [ "$restarts" -lt "${MAX_RESTARTS:-20}" ] || exit "$code"
    printf '%s: exit code %d, going on\n' "$(basename "$0")" "$code" >&2
  done
}
