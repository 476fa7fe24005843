#!/usr/bin/env bash
# Install what is missing, then lint, type-check and run the tests.
#
#   scripts/test.sh            everything this machine can run (no GPU: without the GPU tests)
#   scripts/test.sh --fast     lint, and the tests without models, vLLM, Ray and Docker: a minute
#   scripts/test.sh -k loss    further arguments go to pytest (then one process for all)
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fast=false
case ${1:-} in
    --fast) fast=true && shift ;;
    -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" && exit ;;
esac

setup_options=()
$fast || setup_options+=(--docker --chromium)
scripts/setup.sh "${setup_options[@]}" || exit

# One thread wherever a library asks, for two processes run the tests; times and float results then
# depend less on the machine. Nothing is looked up at the hub or reported home.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} MKL_NUM_THREADS=${MKL_NUM_THREADS:-1}
export TOKENIZERS_PARALLELISM=false
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 VLLM_NO_USAGE_STATS=1 RAY_USAGE_STATS_ENABLED=0

if $fast; then
    markers="not slow and not gpu"
elif nvidia-smi -L 2>/dev/null | grep -q GPU; then
    markers=""
else
    markers="not gpu"
fi

failed=()
stage() {
    local name=$1 start=$SECONDS
    shift
    printf '\n== %s\n' "$name"
    .venv/bin/python -m "$@" </dev/null || failed+=("$name")
    printf '== %s: %d s\n' "$name" $((SECONDS - start))
}

python_folders=(rlvr verifiers sandbox scripts tests)
stage "lint" ruff check "${python_folders[@]}"
stage "format" ruff format --check "${python_folders[@]}"
$fast || stage "types" pyright
parallel=(-n 2 --dist worksteal)
by_file=(-n 2 --dist loadfile --no-loadscope-reorder)
if $fast; then
    stage "tests" pytest "${parallel[@]}" tests/unit -m "$markers" --hypothesis-profile=fast "$@"
elif (($#)); then
    stage "tests" pytest -m "$markers" "$@"
else
    stage "unit tests" pytest "${parallel[@]}" tests/unit -m "$markers"
    stage "integration tests" pytest "${by_file[@]}" tests/docker tests/integration tests/gpu -m "$markers"
fi

echo
if ((${#setup_options[@]})) && ! docker info >/dev/null 2>&1; then
    reason=$(docker info 2>&1 >/dev/null || true)
    echo "Docker tests were skipped: ${reason%%$'\n'*}"
fi
if ((${#failed[@]})); then
    echo "FAILED after $SECONDS s: ${failed[*]}"
    exit 1
fi
echo "All passed in $SECONDS s."
