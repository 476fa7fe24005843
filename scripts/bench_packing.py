"""Tree packing against padded rows: forward and backward of a few groups, and the share of the
machine's matrix-multiply peak that each reaches.

    taskset -c 0,1 python scripts/bench_packing.py --threads 2

Both are timed alternately in the same run, and the best of `--repeats` counts. `speed-up` is padded
/ tree in seconds; `sharing` is the same in computed tokens. The share of the peak counts what the
model mathematically needs for the tokens that were computed: 6 FLOPs for each weight and token, the
output layer only at places that predict, plus visible pairs of attention; neither the padding, nor
the logits that are recomputed, nor what masks throw away.

Completions are of two kinds: `random` tokens share nothing but the prompt; `peaked` ones take the
same most likely token with probability 0.7, as short answers do.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch

from rlvr.batch import MicroBatch, Packing, Sample, pack
from rlvr.config import RunConfig
from rlvr.learner import keep_freed_memory
from rlvr.models import resolve_model
from rlvr.policy import Policy, load_policy


def make_group(
    index: int, prompt_tokens: int, group_size: int, length: int, kind: str
) -> list[Sample]:
    rng = random.Random(index)
    prompt = tuple(rng.randrange(1000, 40000) for _ in range(prompt_tokens))
    modes = [rng.randrange(1000, 40000) for _ in range(length)]

    def completion() -> tuple[int, ...]:
        tokens = []
        follows = kind == "peaked"
        for mode in modes:
            follows = follows and rng.random() < 0.7
            tokens.append(mode if follows else rng.randrange(1000, 40000))
        return tuple(tokens)

    return [
        Sample.of_tokens(prompt, completion(), group=index, member=member)
        for member in range(group_size)
    ]


def seconds_of(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def peak_gflops(dtype: torch.dtype, size: int = 4096) -> float:
    """Best rate of a large square matrix product."""
    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    seconds = min(seconds_of(lambda: torch.mm(a, b)) for _ in range(8))
    return 2 * size**3 / seconds / 1e9


def needed_gflop(policy: Policy, micro: MicroBatch) -> float:
    """FLOPs of forward and backward that the micro-batch's tokens need."""
    model = policy.causal_lm
    config = model.config
    embedding = config.vocab_size * config.hidden_size
    body = sum(parameter.numel() for parameter in model.parameters()) - embedding
    if micro.subtree_end is not None:  # each key is seen by its subtree
        pairs = int((micro.subtree_end - torch.arange(micro.num_nodes)).sum())
    else:
        rows, length = micro.token_ids.shape
        pairs = rows * length * (length + 1) // 2
    attention = 4 * pairs * config.num_attention_heads * config.head_dim * config.num_hidden_layers
    return (6 * (body * micro.num_nodes + embedding * len(micro.places)) + 3 * attention) / 1e9


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompts", type=int, nargs="+", default=[32, 64, 128, 256, 512])
    parser.add_argument("--groups", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--problems", type=int, default=1, help="groups of a micro-batch")
    parser.add_argument("--length", type=int, default=24, help="tokens of a completion")
    parser.add_argument("--kinds", nargs="+", default=["random", "peaked"])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    options = parser.parse_args(arguments)

    torch.set_num_threads(options.threads)
    keep_freed_memory()
    dtype = getattr(torch, options.dtype)
    folder = resolve_model(options.model)
    packings: tuple[Packing, ...] = ("padded", "tree")
    policies = {
        packing: load_policy(
            RunConfig.model_validate({"learner": {"packing": packing}}),
            folder,
            dtype,
            torch.device("cpu"),
        )
        for packing in packings
    }
    print(f"{options.model}, {options.dtype}, {options.threads} threads, completions of "
          f"{options.length} tokens")  # fmt: skip
    print(f"{'kind':8}{'prompt':>7}{'group':>6}{'padded s':>10}{'tree s':>8}{'speed-up':>9}"
          f"{'sharing':>8}{'% of peak: padded':>19}{'tree':>6}")  # fmt: skip
    for kind in options.kinds:
        for prompt in options.prompts:
            for group in options.groups:
                samples = [
                    sample
                    for index in range(options.problems)
                    for sample in make_group(index, prompt, group, options.length, kind)
                ]
                micros = {p: pack(samples, packing=p, max_tokens=1 << 30)[0] for p in packings}
                seconds = dict.fromkeys(packings, float("inf"))
                for _ in range(options.repeats):
                    for packing in packings:
                        elapsed = seconds_of(partial(run, policies[packing], micros[packing]))
                        seconds[packing] = min(seconds[packing], elapsed)
                peak = peak_gflops(dtype)
                share = {
                    p: needed_gflop(policies[p], micros[p]) / seconds[p] / peak for p in packings
                }
                print(f"{kind:8}{prompt:7}{group:6}{seconds['padded']:10.2f}{seconds['tree']:8.2f}"
                      f"{seconds['padded'] / seconds['tree']:9.2f}"
                      f"{micros['padded'].num_nodes / micros['tree'].num_nodes:8.2f}"
                      f"{share['padded']:19.0%}{share['tree']:6.0%}", flush=True)  # fmt: skip


def run(policy: Policy, micro: MicroBatch) -> None:
    """One forward and backward pass."""
    policy.zero_grad()
    policy(micro).logprobs.sum().backward()


if __name__ == "__main__":
    main()
