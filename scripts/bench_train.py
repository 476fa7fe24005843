"""Our loop against TRL's GRPOTrainer on the same work, in one run on the same cores.

    taskset -c 0,1 .venv/bin/python scripts/bench_train.py --peer path/to/trl_peer.py

The work: SmolLM2-135M-Instruct in bfloat16, 8 prompts x 8 completions x 24 tokens a step, two-digit
sums. The peer's script prints one JSON line a step with `step`, `t` (seconds since the start),
`len` (mean completion length); TRL is installed beside, not into, this environment. Without
`--peer` only our loop is timed. The first steps of both, which compile and warm up, are left out.
`scripts/bench_packing.py` then says what share of the matrix-multiply peak the learner reaches, and
times tree packing against padded rows.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from rlvr.metrics import read_metrics
from rlvr.models import resolve_model

PROMPTS, GROUP, MAX_TOKENS = 8, 8, 24
WARMUP = 2
"""Steps left out of both figures."""
PHASES = ("rollout", "advantages", "learner", "publish", "step")
TRL = "trl==1.16.0"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=8, help="steps of each, warm-up included")
    parser.add_argument("--peer", type=Path, help="the peer's script")
    parser.add_argument("--digits", type=int, default=2, help="of the summands (the peer's too)")
    parser.add_argument("--packing", action="store_true", help="run bench_packing.py as well")
    options = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    model = resolve_model("smollm2-135m-instruct")
    print(f"{threads} cores, {options.steps} steps each, {WARMUP} of them left out")
    with tempfile.TemporaryDirectory(prefix="rlvr-bench-") as folder:
        ours = run_ours(model, options, Path(folder), threads)
        if options.peer:
            theirs = run_peer(model, options, Path(folder), threads)
            print(f"ratio (tokens a second, ours / TRL): {ours / theirs:.2f}")
    if options.packing:
        packing = Path(__file__).with_name("bench_packing.py")
        subprocess.run([sys.executable, str(packing), "--threads", str(threads)], check=True)


def run_ours(model: Path, options: argparse.Namespace, folder: Path, threads: int) -> float:
    """Completion tokens a second of our loop."""
    rng, high = random.Random(0), 10**options.digits - 1
    pairs = [(rng.randint(1, high), rng.randint(1, high)) for _ in range(4096)]
    rows = [
        {"prompt": f"What is {x} + {y}? Reply with the number only.", "answer": str(x + y)}
        for x, y in pairs
    ]
    data = folder / "sums.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = folder / "bench.toml"
    recipe.write_text(f"num_steps = {options.steps}\ngroups_per_step = {PROMPTS}\n")
    settings = {
        "model.path": model,
        "data.path": data,
        "rollout.group_size": GROUP,
        "rollout.max_tokens": MAX_TOKENS,
        "rollout.max_model_len": 256,
        "rollout.kv_cache_gb": 0.5,
        "rollout.num_threads": threads,
        "learner.num_threads": threads,
        "learner.lr": 3e-6,
        "checkpoint.every": 0,
        "run_dir": folder / "run",
    }
    words = [f"{key}={value}" for key, value in settings.items()]
    run([sys.executable, "-m", "rlvr.cli", "train", str(recipe), *words], os.environ.copy())
    rows = [row for row in read_metrics(folder / "run") if row["step"] > WARMUP]
    print(f"\nrlvr: {len(rows)} steps, medians")
    for phase in PHASES:
        print(f"  {phase:10} {median(row[f'time/{phase}_s'] for row in rows):7.2f} s")
    tokens = sum(row["tokens/rollout"] for row in rows)
    seconds = sum(row["time/step_s"] for row in rows)
    print(f"  {tokens / len(rows):.0f} completion tokens a step, {tokens / seconds:.1f} a second")
    trained = sum(row["tokens/trained"] for row in rows) / tokens
    shared = sum(row["packing/sharing"] for row in rows) / len(rows)
    print(f"  {trained:.0%} of the tokens have a gradient; packing saves {shared:.1f} x")
    return tokens / seconds


def run_peer(model: Path, options: argparse.Namespace, folder: Path, threads: int) -> float:
    """Completion tokens a second of TRL."""
    packages = folder / "trl"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    run([*pip, str(packages), TRL], os.environ.copy())
    out = folder / "peer.jsonl"
    environment = os.environ | {
        "PYTHONPATH": str(packages),
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
    }
    command = [str(options.peer), str(model), str(options.steps), str(out)]
    sizes = ["--prompts", PROMPTS, "--group", GROUP, "--max-tokens", MAX_TOKENS]
    sizes += ["--digits", options.digits]
    run([sys.executable, *command, *map(str, sizes)], environment)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    kept = rows[WARMUP:]
    seconds = kept[-1]["t"] - rows[WARMUP - 1]["t"]
    tokens = sum(row["len"] * PROMPTS * GROUP for row in kept)
    print(f"\nTRL: {len(kept)} steps, {seconds / len(kept):.2f} s a step")
    print(f"  {tokens / len(kept):.0f} completion tokens a step, {tokens / seconds:.1f} a second")
    return tokens / seconds


def run(command: list[str], environment: dict[str, str]) -> None:
    """Run a program; its output is only shown when it fails."""
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\nfailed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")


if __name__ == "__main__":
    main()
