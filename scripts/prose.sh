#!/usr/bin/env bash
# Report misspellings and retired words with file, line and replacement. Exit status 0 means there are none.
#
#   scripts/prose.sh            all files except those that [tool.codespell] in pyproject.toml skips
#   scripts/prose.sh FILE...    these files; paths are relative to the root of the repository
#
# scripts/prose.txt lists the retired words, one `phrase->replacement, replacement,` per line. This is
# codespell's dictionary format; the comma at the end prevents automatic replacement.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

RULES=scripts/prose.txt
[ $# -gt 0 ] || set -- .
# codespell looks up single words. This regular expression makes it look up the listed phrases first.
phrases=$(sed 's/->.*//' "$RULES" | paste -sd '|')
exec .venv/bin/codespell --dictionary - --dictionary "$RULES" \
  --regex "(?i:(?<!\w)(?:$phrases)(?!\w))|[\w'’-]+" "$@"
