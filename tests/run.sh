#!/usr/bin/env bash
# The whole test suite:
#
#     tests/run.sh [--quick] [--werror]
#
# Installs Debian packages (for root also Slurm, which the job scripts are tested on), builds, fetches the model (without it the
# model tests are skipped and say so), runs every suite, then builds again with AddressSanitizer and
# UndefinedBehaviorSanitizer and runs the suites that need no ranks and no model, and once more with ThreadSanitizer for the programs
# whose threads meet (neither with --quick). --werror makes compiler warnings errors. The last line counts over all.
set -euo pipefail
# shellcheck source=launch/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/../launch/setup.sh"

quick=no
werror=false
for argument; do
  case $argument in
  --quick) quick=yes ;;
  --werror) werror=true ;;
  *) stop 64 "unknown flag $argument; there are --quick and --werror" ;;
  esac
done

packages_install "${packages[@]}"
if [ "$(id -u)" = 0 ]; then
  (packages_install "${slurm_packages[@]}") || say "no Slurm: its tests are skipped"
fi
say "building"
build_in "$build" all -Dwerror=$werror
if model_fetch; then
  SPILLWAY_TEST_MODEL=$(model_path)
  export SPILLWAY_TEST_MODEL
else
  say "the model could not be fetched: its tests are skipped"
fi

logs=()
failed=0
run_tests() { # build folder, label, meson test options …
  local folder=$1 label=$2
  shift 2
  say "testing: $label"
  meson test -C "$folder" --logbase "log-$label" --no-rebuild --print-errorlogs "$@" >&2 || failed=1
  logs+=("$folder/meson-logs/log-$label.json")
}

run_tests "$build" all
if [ "$quick" = no ]; then
  sanitized=$root/build-sanitize
  say "building with sanitizers"
  build_in "$sanitized" all -Dwerror=$werror -Dbuildtype=debugoptimized -Db_ndebug=false -Db_lundef=false \
    -Db_sanitize=address,undefined
  export ASAN_OPTIONS=abort_on_error=0:allocator_may_return_null=1:detect_leaks=1
  export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
  run_tests "$sanitized" sanitizers --suite unit --suite property --suite sim --suite fuzz --timeout-multiplier 5

  threaded=$root/build-threads
  say "building for the thread sanitizer"
  build_in "$threaded" thread_programs -Dwerror=$werror -Dbuildtype=debugoptimized -Db_ndebug=false -Db_lundef=false \
    -Db_sanitize=thread
  export TSAN_OPTIONS=second_deadlock_stack=1
  run_tests "$threaded" threads --suite threads --timeout-multiplier 5
fi

python3 "$root/tests/count_results.py" "${logs[@]}" || failed=1
exit "$failed"
