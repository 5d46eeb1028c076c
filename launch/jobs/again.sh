# shellcheck shell=bash
# Sourced by node.sh and two_nodes.sh.

# Where a program is; without it the script ends, for no later run would find it.
find_needed() {
  command -v "$1" && return
  printf '%s: there is no program "%s" on the PATH\n' "$(basename "$0")" "$1" >&2
  exit 127
}

# Runs a command to its end: signals that would end this script become USR1, a drain, and after a lost rank (76, or 128 and the
# signal that killed it) the command runs again and goes on, MAX_RESTARTS times at most (20). Exits with the last code. What cannot
# be started (126, 127) is not tried again.
run_again() {
  local restarts code child='' stopped=no
  drain() { [ -z "$child" ] || kill -USR1 "$child" 2>/dev/null; }
  trap 'stopped=yes; drain' TERM INT HUP USR1
  for ((restarts = 0; ; restarts++)); do
    [ "$stopped" = no ] || exit 75
    "$@" &
    # What reaches a child that is still a copy of this shell is lost, so it is told of nothing before it had time to be more.
    sleep 0.3
    child=$!
    [ "$stopped" = no ] || drain
    wait "$child"
    code=$?
    # A signal that was caught ends `wait`, but not the command.
    while [ "$code" -gt 128 ] && kill -0 "$child" 2>/dev/null; do
      wait "$child"
      code=$?
    done
    child=''
    if [ "$stopped" = yes ]; then
      # Asked to end, it ended, if only because mpirun did not listen yet.
      [ "$code" -le 128 ] || code=75
      exit "$code"
    fi
    if [ "$code" -le 75 ] || [ "$code" = 126 ] || [ "$code" = 127 ] || [ "$restarts" -ge "${MAX_RESTARTS:-20}" ]; then
      exit "$code"
    fi
    printf '%s: exit code %d, going on\n' "$(basename "$0")" "$code" >&2
  done
}
