"""What evaluation costs beside bare sampling: `rlvr eval`'s loop against `vllm.LLM.generate`.

    python scripts/bench_eval.py MODEL_DIR [--problems 200] [--samples 8] [--max-tokens 64]
    python scripts/bench_eval.py MODEL_DIR --whole      # whole processes, engine start included

Both sample the same prompts with the same engine settings. The bare one throws its completions
away; ours sends them through Ray, judges them, and writes and flushes every one. Without `--whole`
both engines are up at the same time and take turns, so that whatever else the machine does hits
both; the figure is the median of the rounds' ratios, in seconds a token (lengths vary a little).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from rlvr.benchmark import Benchmark, engine, model_folder, plan  # noqa: E402
from rlvr.benchmark_loop import Engines, collect  # noqa: E402
from rlvr.results import FORMAT, open_results  # noqa: E402
from rlvr.scoring import Scorer, verifier_params  # noqa: E402


def benchmark_of(options: argparse.Namespace) -> Benchmark:
    settings = [
        f"n={options.samples}",
        f"limit={options.problems}",
        f"max_tokens={options.max_tokens}",
        f"rollout.max_model_len={options.max_model_len}",
        f"rollout.kv_cache_gb={options.kv_cache_gb}",
        *options.settings,
    ]
    (found,) = plan([options.benchmark], settings)
    return found


# As in our cluster: idle OpenMP threads that spin slow down whatever shares their cores.
BARE_ENVIRONMENT = {**os.environ, "GOMP_SPINCOUNT": "1000"}


def bare_command() -> list[str]:
    return [sys.executable, __file__, *sys.argv[1:], "--bare"]


def bare(options: argparse.Namespace) -> None:
    """A round for each line of standard input: sample all prompts, print seconds and tokens."""
    from vllm import LLM, SamplingParams

    from rlvr import rollout_plugin
    from rlvr.rollout import RolloutEngine

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # vLLM prints
    benchmark = benchmark_of(options)
    config = engine(benchmark)
    settings = RolloutEngine(config, options.model, 0)
    os.environ[rollout_plugin.ENGINE_PARENT] = str(os.getpid())  # the same kernels
    settings._set_cpu_environment()
    args = vars(settings._engine_args())
    keep = ("model", "dtype", "max_model_len", "max_num_seqs", "enforce_eager", "seed")
    keep += ("kv_cache_memory_bytes", "block_size", "ir_op_priority", "generation_config")
    llm = LLM(**{name: args[name] for name in keep})
    prompts: list[Any] = [list(problem.prompt) for problem in benchmark.problems]
    sampling = benchmark.sampling
    params = SamplingParams(
        n=benchmark.config.n,
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
    )
    print("ready", file=answers, flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        outputs = llm.chat(prompts, params, use_tqdm=False)
        seconds = time.perf_counter() - started
        tokens = sum(len(each.token_ids) for output in outputs for each in output.outputs)
        print(json.dumps({"seconds": seconds, "tokens": tokens}), file=answers, flush=True)


async def ours(benchmark: Benchmark, model: str, pool: Any, folder: Path) -> dict[str, Any]:
    """One round of our loop, scoring and writing included."""
    run = {"format": FORMAT, "identity": {}, "model": {}, "config": {}}
    async with Scorer(benchmark.config.scoring, verifier_params(benchmark.config.data)) as scorer:
        with open_results(folder, run) as results:
            started = time.perf_counter()
            await collect(
                benchmark.problems,
                benchmark.config.n,
                benchmark.sampling,
                Engines(pool),
                scorer.verdict,
                results,
            )
            seconds = time.perf_counter() - started
            tokens = sum(row["num_tokens"] for row in results.judged.values())
    return {"seconds": seconds, "tokens": tokens}


async def take_turns(options: argparse.Namespace) -> list[float]:
    from rlvr.cluster import rollout_workers

    benchmark = benchmark_of(options)
    ratios = []
    with tempfile.TemporaryDirectory(prefix="rlvr-bench-") as temporary:
        folder = Path(temporary)
        log = (folder / "bare.log").open("w")
        child = await asyncio.create_subprocess_exec(
            *bare_command(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            env=BARE_ENVIRONMENT,
        )
        assert child.stdin is not None and child.stdout is not None
        try:
            if await child.stdout.readline() != b"ready\n":
                raise RuntimeError((folder / "bare.log").read_text()[-3000:])
            config = engine(benchmark)
            async with rollout_workers(config, options.model, folder) as pool:
                for number in range(options.rounds + 1):
                    child.stdin.write(b"go\n")
                    theirs = json.loads(await child.stdout.readline())
                    mine = await ours(benchmark, options.model, pool, folder / f"round-{number}")
                    ratio = (mine["seconds"] / mine["tokens"]) / (
                        theirs["seconds"] / theirs["tokens"]
                    )
                    show(f"round {number}", theirs, mine, ratio, warm_up=number == 0)
                    if number:
                        ratios.append(ratio)
        finally:
            child.stdin.close()
            await child.wait()
    return ratios


def whole(options: argparse.Namespace) -> float:
    """Both from start to end, one after the other."""
    started = time.perf_counter()
    done = subprocess.run(
        bare_command(),
        input="go\n",
        capture_output=True,
        text=True,
        check=True,
        env=BARE_ENVIRONMENT,
    )
    theirs = json.loads(done.stdout.splitlines()[-1]) | {"seconds": time.perf_counter() - started}
    with tempfile.TemporaryDirectory(prefix="rlvr-bench-") as folder:
        code = "import sys; from rlvr.evaluate import evaluate_model; from pathlib import Path; "
        code += "import json; model, benchmark, output, *settings = sys.argv[1:]; "
        code += "found = evaluate_model(model, [benchmark], settings, output=Path(output)); "
        code += "print(json.dumps([each['tokens'] for each in found.values()]))"
        settings = [
            f"n={options.samples}",
            f"limit={options.problems}",
            f"max_tokens={options.max_tokens}",
            f"rollout.max_model_len={options.max_model_len}",
            f"rollout.kv_cache_gb={options.kv_cache_gb}",
            *options.settings,
        ]
        words = [sys.executable, "-c", code, options.model, options.benchmark, folder, *settings]
        started = time.perf_counter()
        done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
        mine = {
            "seconds": time.perf_counter() - started,
            "tokens": json.loads(done.stdout.splitlines()[-1])[0],
        }
    ratio = mine["seconds"] / theirs["seconds"]
    show("whole process", theirs, mine, ratio, warm_up=False)
    return ratio


def show(
    name: str, theirs: dict[str, Any], mine: dict[str, Any], ratio: float, *, warm_up: bool
) -> None:
    parts = [
        f"{who} {each['seconds']:.1f} s, {each['tokens']:,} tokens "
        f"({each['tokens'] / each['seconds']:,.0f}/s)"
        for who, each in (("bare", theirs), ("rlvr", mine))
    ]
    print(f"{name}: {'; '.join(parts)}; ratio {ratio:.3f}{' (warm-up)' * warm_up}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("settings", nargs="*", help="further settings of the benchmark, key=value")
    parser.add_argument("--benchmark", default="quickstart")
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=16)
    parser.add_argument("--max-model-len", type=int, default=512)
    parser.add_argument("--kv-cache-gb", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_intermixed_args()
    options.model = str(model_folder(options.model)[0])
    if options.bare:
        bare(options)
    elif options.whole:
        whole(options)
    else:
        ratios = asyncio.run(take_turns(options))
        print(
            f"median ratio {statistics.median(ratios):.3f} "
            f"({min(ratios):.3f} to {max(ratios):.3f}, {len(ratios)} rounds)"
        )


if __name__ == "__main__":
    main()
