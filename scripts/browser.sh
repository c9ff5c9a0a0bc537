#!/usr/bin/env bash
# Install Chromium, which the tests of the playground use, if there is no browser yet.
#
#   scripts/browser.sh      on Debian or Ubuntu, as root or with sudo; instant when there is one
#
# If it fails it prints the reason in one line and exits with 1.
set -uo pipefail

fail() {
  echo "no browser for the tests of the playground: $*" >&2
  exit 1
}

find_browser() {
  local name
  for name in ${SAFETY_RAY_BROWSER:-chromium chromium-browser google-chrome google-chrome-stable}; do
    if command -v "$name" >/dev/null; then return 0; fi
  done
  return 1
}

find_browser && exit 0
[ -z "${SAFETY_RAY_BROWSER:-}" ] || fail "SAFETY_RAY_BROWSER=$SAFETY_RAY_BROWSER is no program."
command -v apt-get >/dev/null ||
  fail "apt-get is not here; install Chromium, and name it by SAFETY_RAY_BROWSER if it is not on PATH."
as_root=()
if [ "$(id -u)" != 0 ]; then
  sudo -n true 2>/dev/null || fail "installing it needs root; run: sudo apt-get install chromium"
  as_root=(sudo -n)
fi
echo "installing chromium with apt-get, a minute or two"
said=$({ "${as_root[@]}" apt-get update && "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
  apt-get install -y --no-install-recommends chromium; } 2>&1) ||
  fail "apt-get could not install chromium: $(grep -E '^(E|Err)' <<<"$said" | tail -n 1)"
find_browser || fail "apt-get installed chromium, but no program of that name is on PATH."
