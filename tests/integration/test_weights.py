"""The publisher's side of a weight transfer, with workers that are hand-written fakes."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest
import torch

from rlvr.config import RunConfig
from rlvr.errors import WeightTransferError
from rlvr.weights import SyncClient, WireSource, parse_version, resolve_backend, version_label


class FakeWorker:
    """Follows the protocol faultlessly, but for the faults it is told to have."""

    def __init__(self, name: str, *, silent_at: str = "", stuck: bool = False) -> None:
        self.name = name
        self.version = 0
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self._silent_at = silent_at
        self._stuck = stuck

    def call(self, method: str, *args: Any) -> Future[Any]:
        self.calls.append((method, args))
        future: Future[Any] = Future()
        if method == self._silent_at:
            return future
        try:
            future.set_result(self._answer(method, *args))
        except WeightTransferError as error:
            future.set_exception(error)
        return future

    def _answer(self, method: str, *args: Any) -> Any:
        if method == "start_weight_update" and args[0] <= self.version:
            raise WeightTransferError(f"refused the stale v{args[0]}")
        if method == "finish_weight_update" and not self._stuck:
            self.version = args[0]
        return self.version


def update(client: SyncClient, version: int) -> None:
    client.begin(version)
    client.start_weight_update()
    client.update_weights({"tensors": []})
    client.finish_weight_update()


def test_every_worker_goes_through_the_protocol_in_order() -> None:
    workers = [FakeWorker("a"), FakeWorker("b")]
    update(SyncClient(workers, timeout_s=5), 3)
    for worker in workers:
        assert [name for name, _ in worker.calls] == [
            "start_weight_update",
            "update_weights",
            "finish_weight_update",
        ]
        assert worker.version == 3


def test_a_buffer_travels_beside_the_info_with_the_version() -> None:
    """Ray resolves only references that are arguments themselves."""
    worker = FakeWorker("a")
    client = SyncClient([worker], timeout_s=5)
    client.begin(7)
    info = {"tensors": [1], "buffer": "ref"}
    client.update_weights(info)
    assert worker.calls[-1] == ("update_weights", ({"tensors": [1], "version": 7}, "ref"))


@pytest.mark.parametrize(
    "method", ["start_weight_update", "update_weights", "finish_weight_update"]
)
def test_missing_confirmation_names_the_worker(method: str) -> None:
    client = SyncClient([FakeWorker("a"), FakeWorker("b", silent_at=method)], timeout_s=0.05)
    with pytest.raises(WeightTransferError, match=rf"^b: no answer to {method} .*0.05 s"):
        update(client, 1)


def test_worker_that_did_not_move_is_named() -> None:
    client = SyncClient([FakeWorker("a"), FakeWorker("b", stuck=True)], timeout_s=5)
    with pytest.raises(WeightTransferError, match=r"^b: confirmed weights v0 after v1 were sent"):
        update(client, 1)


def test_worker_with_newer_weights_is_named() -> None:
    newer = FakeWorker("b")
    newer.version = 9
    client = SyncClient([FakeWorker("a"), newer], timeout_s=5)
    with pytest.raises(
        WeightTransferError, match=r"^b: start_weight_update .*refused the stale v4"
    ):
        update(client, 4)


def test_only_the_last_line_of_a_remote_traceback_is_shown() -> None:
    class Broken(FakeWorker):
        def _answer(self, method: str, *args: Any) -> Any:
            raise WeightTransferError(
                "Traceback ...\n  File x\nrlvr.errors.WeightTransferError: tensor 'w' was corrupted"
            )

    with pytest.raises(WeightTransferError) as caught:
        update(SyncClient([Broken("a")], timeout_s=5), 1)
    assert (
        str(caught.value) == "a: start_weight_update (weights v1) failed: tensor 'w' was corrupted"
    )


def test_nccl_ranks_of_several_engines_do_not_collide() -> None:
    workers = [FakeWorker("a"), FakeWorker("b"), FakeWorker("c")]
    client = SyncClient(workers, timeout_s=5)
    client.init_weight_transfer_engine({"rank_offset": 1, "world_size": 7})
    offsets = [worker.calls[-1][1][0]["rank_offset"] for worker in workers]
    assert offsets == [1, 3, 5]  # two processes each, behind the learner's rank 0


def test_wire_source_describes_what_it_yields() -> None:
    weights = {"w": torch.ones(2, 3), "b": torch.zeros(3)}
    source = WireSource(weights.items(), torch.bfloat16)
    for _ in range(2):  # every pass is a fresh one
        yielded = list(source)
        assert [(m.name, m.dtype, m.shape) for m in source.metadata()] == [
            (name, tensor.dtype, tuple(tensor.shape)) for name, tensor in yielded
        ]
    assert source.nbytes == 2 * (6 + 3)


def test_chunks_keep_layers_whole_and_the_order() -> None:
    pytest.importorskip("ray")
    from vllm.distributed.weight_transfer.base import ParamMeta

    from rlvr.weights_ray import plan_chunks

    names = ["embed.weight"]
    names += [f"layers.{layer}.{part}" for layer in range(5) for part in ("q", "k")] + ["norm"]
    metas = [ParamMeta(name, torch.float32, (32,)) for name in names]  # 128 bytes each
    chunks = plan_chunks(metas, chunk_bytes=600)
    assert [meta for chunk in chunks for meta in chunk] == metas
    for chunk in chunks:
        assert sum(128 for _ in chunk) <= 600
    for layer in range(5):
        holders = [c for c in chunks if any(m.name.startswith(f"layers.{layer}.") for m in c)]
        assert len(holders) == 1
    huge = plan_chunks(metas, chunk_bytes=1)
    assert [len(chunk) for chunk in huge] == [1, 2, 2, 2, 2, 2, 1]


def test_version_labels_round_trip() -> None:
    assert [parse_version(version_label(n)) for n in (0, 1, 12)] == [0, 1, 12]


@pytest.mark.parametrize(
    ("backend", "device", "has_gpu", "expected"),
    [
        ("auto", "auto", True, "nccl"),
        ("auto", "auto", False, "ray"),
        ("auto", "cpu", True, "ray"),
        ("ipc", "auto", True, "ipc"),
        ("ray", "auto", True, "ray"),
    ],
)
def test_backend_auto(backend: str, device: str, has_gpu: bool, expected: str) -> None:
    config = RunConfig.model_validate(
        {"weights": {"backend": backend}, "learner": {"device": device}}
    )
    assert resolve_backend(config, has_gpu=has_gpu) == expected
