"""Seconds of a full weight publish against a plain memory copy of the same bytes.

    python scripts/bench_weights.py [--model PATH] [--rounds 10] [--cores 0,1]

Every round copies the model's bytes once in memory (`memcpy`: numpy, one thread, into memory that
was touched before) and publishes the weights once through Ray's object store into a real vLLM
engine: checksums on both sides, hand-over to vLLM's process and the engine's own packing included.
The cast from float32 is not: it is the learner's (`gather` in a training run).
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

import numpy as np
import ray
import torch

from rlvr.cluster import init_ray
from rlvr.config import RunConfig
from rlvr.models import resolve_model
from rlvr.rollout import RolloutEngine
from rlvr.weights import PublishReport, WeightPublisher


class Target:
    """A `RolloutHandle` over a Ray actor."""

    name = "rollout-0"

    def __init__(self, actor: ray.actor.ActorHandle) -> None:
        self._actor = actor

    def call(self, method: str, *args: object) -> object:
        return getattr(self._actor, method).remote(*args).future()


def memcpy_seconds(num_bytes: int) -> float:
    source, target = np.ones(num_bytes, np.uint8), np.ones(num_bytes, np.uint8)
    times = []
    for _ in range(3):
        started = time.perf_counter()
        np.copyto(target, source)
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--cores", default="0,1", help="CPU cores to run on")
    args = parser.parse_args()
    os.sched_setaffinity(0, {int(core) for core in args.cores.split(",")})

    config = RunConfig.model_validate(
        {
            "model": {"path": args.model},
            "rollout": {"max_tokens": 16, "max_model_len": 256, "kv_cache_gb": 0.25}
            | {"enforce_eager": True},
        }
    )
    model_dir = str(resolve_model(args.model))
    init_ray()
    actor = ray.remote(RolloutEngine).options(num_cpus=0, max_concurrency=100)
    actor = actor.remote(config, model_dir, 0)
    ray.get(actor.start.remote())

    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.bfloat16)
    weights = [(name, parameter.detach()) for name, parameter in model.named_parameters()]
    publisher = WeightPublisher("ray", weights, [Target(actor)], timeout_s=120)

    reports: list[PublishReport] = []
    copies: list[float] = []
    for version in range(1, args.rounds + 3):  # the first two touch new memory: not counted
        report = publisher.publish(version)
        copies.append(memcpy_seconds(report.bytes))
        reports.append(report)
        print(
            f"v{version}: publish {1e3 * report.seconds:.0f} ms, memcpy {1e3 * copies[-1]:.0f} ms, "
            f"ratio {report.seconds / copies[-1]:.1f}  "
            + " ".join(f"{k} {1e3 * v:.0f}" for k, v in report.phases.items()),
            flush=True,
        )
    measured = list(zip(reports, copies, strict=True))[2:]
    seconds = statistics.median(report.seconds for report, _ in measured)
    copy = statistics.median(copy for _, copy in measured)
    size = reports[0].bytes
    print(
        f"{size / 1e6:.0f} MB: publish {1e3 * seconds:.0f} ms ({size / seconds / 1e9:.1f} GB/s), "
        f"memcpy {1e3 * copy:.0f} ms ({size / copy / 1e9:.1f} GB/s), ratio of medians "
        f"{seconds / copy:.1f}"
    )
    ray.get(actor.close.remote())
    ray.shutdown()


if __name__ == "__main__":
    main()
