#!/usr/bin/env bash
# The main job from a fresh clone: install what is missing, then train the quickstart recipe.
# Arguments go to `rlvr train quickstart`, such as `seed=1` or `--dry-run`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/setup.sh
exec .venv/bin/rlvr train quickstart "$@"
