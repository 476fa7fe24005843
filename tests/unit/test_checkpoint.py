import asyncio
import errno
import json
import math
import multiprocessing
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlvr.checkpoint import CheckpointStore, load_checkpoint, lock, require_run
from rlvr.errors import CheckpointError
from rlvr.group_file import read_groups, write_groups
from rlvr.types import Completion, Group, Problem, Rollout, Status, Verdict, VersionSpan

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
details = st.dictionaries(st.text(), json_values, max_size=3)
any_text = st.text(st.characters(codec=None))  # lone surrogates too: tokens can be cut anywhere
finite = st.floats(allow_nan=False, allow_infinity=False)

problems = st.builds(
    Problem,
    id=st.text(),
    prompt=any_text
    | st.lists(st.fixed_dictionaries({"role": st.text(), "content": any_text})).map(tuple),
    verifier=st.text(),
    answer=st.none() | st.text(),
    tests=st.none() | details,
    metadata=details,
)
completions = st.builds(
    Completion,
    text=any_text,
    token_ids=st.lists(st.integers(0, 2**31)).map(tuple),
    logprobs=st.lists(st.floats(allow_nan=False, max_value=0.0)).map(tuple),
    versions=st.lists(
        st.builds(VersionSpan, version=st.integers(0), start=st.integers(0), end=st.integers(0))
    ).map(tuple),
    finish_reason=st.sampled_from(["stop", "length", "abort"]),
)
verdicts = st.builds(
    Verdict,
    status=st.sampled_from([status for status in Status if status is not Status.ERROR]),
    reward=finite,
    detail=details,
    latency_s=finite,
) | st.just(Verdict.error(reason="sandbox down"))
groups_strategy = st.builds(
    Group,
    index=st.integers(0),
    problem=problems,
    prompt_token_ids=st.lists(st.integers(0)).map(tuple),
    rollouts=st.lists(
        st.builds(Rollout, completion=completions, verdict=st.none() | verdicts, penalty=finite),
        max_size=3,
    ).map(tuple),
)


def make_group(index: int) -> Group:
    completion = Completion(
        text="3",
        token_ids=(35, 2),
        logprobs=(-0.1, -1 / 3),
        versions=(VersionSpan(version=5, start=0, end=2),),
        finish_reason="stop",
    )
    return Group(
        index=index,
        problem=Problem(id=f"p{index}", prompt="1 + 2?", verifier="number", answer="3"),
        prompt_token_ids=(1, 2),
        rollouts=(Rollout(completion=completion, verdict=Verdict.correct()),),
    )


async def write_model(folder: Path) -> None:
    (folder / "model").mkdir()
    (folder / "model" / "weights.bin").write_bytes(os.urandom(1000))


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path, keep_last=2)


def names(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "checkpoints").iterdir())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(groups=st.lists(groups_strategy, max_size=3))
def test_groups_read_back_equal(groups: list[Group], tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("groups") / "groups.jsonl.zst"
    write_groups(path, groups)
    assert list(read_groups(path)) == groups


def test_float32_and_signed_zero_survive(tmp_path: Path):
    float32 = float.fromhex("0x1.99999ap-4")  # 0.1 as float32, not the double 0.1
    rollout = make_group(0).rollouts[0]
    completion = Completion(
        text="",
        token_ids=(1, 2, 3),
        logprobs=(-float32, -0.0, -math.inf),
        versions=rollout.completion.versions,
        finish_reason="stop",
    )
    group = Group(
        index=0,
        problem=make_group(0).problem,
        prompt_token_ids=(),
        rollouts=(Rollout(completion=completion),),
    )
    write_groups(tmp_path / "g", [group])
    logprobs = next(read_groups(tmp_path / "g")).rollouts[0].completion.logprobs
    assert [value.hex() for value in logprobs] == [value.hex() for value in completion.logprobs]


async def test_what_is_saved_is_loaded(store: CheckpointStore):
    state = {"step": 7, "stream": {"epoch": 1, "pending": [3, 4]}, "pi": math.pi}
    groups = [make_group(3), make_group(4)]
    path = await store.save(7, state, groups, write_model)
    latest = store.latest()
    assert latest is not None
    assert (latest.path, latest.step, latest.state) == (path, 7, state)
    assert list(latest.groups) == groups
    assert (path / "model" / "weights.bin").stat().st_size == 1000


def test_a_run_without_checkpoints_has_no_latest(store: CheckpointStore):
    assert store.latest() is None


async def test_only_the_last_are_kept(store: CheckpointStore, tmp_path: Path):
    for step in (5, 10, 15, 20):
        await store.save(step, {}, [], write_model)
    assert names(tmp_path) == ["step-000015", "step-000020"]


async def test_the_best_is_never_pruned_until_another_is_best(
    store: CheckpointStore, tmp_path: Path
):
    await store.save(5, {}, [], write_model)
    store.mark_best(5)
    for step in (10, 15, 20):
        await store.save(step, {}, [], write_model)
    assert names(tmp_path) == ["best", "step-000005", "step-000015", "step-000020"]
    assert load_checkpoint(tmp_path / "checkpoints" / "best").step == 5
    store.mark_best(20)
    await store.save(25, {}, [], write_model)
    assert names(tmp_path) == ["best", "step-000020", "step-000025"]


async def test_saving_a_step_again_changes_nothing(store: CheckpointStore):
    path = await store.save(5, {"a": 1}, [], write_model)
    assert await store.save(5, {"a": 2}, [], write_model) == path
    assert load_checkpoint(path).state == {"a": 1}


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("PytorchStreamWriter failed")],
)
async def test_a_failed_write_leaves_the_older_checkpoints_and_nothing_else(
    store: CheckpointStore, tmp_path: Path, error: Exception
):
    async def write_half(folder: Path) -> None:
        (folder / "half.bin").write_bytes(b"x" * 100)
        raise error

    await store.save(5, {"a": 1}, [make_group(0)], write_model)
    with pytest.raises(CheckpointError) as caught:
        await store.save(10, {}, [], write_half)
    assert names(tmp_path) == ["step-000005"]
    latest = store.latest()
    assert latest is not None and latest.step == 5
    message = str(caught.value)
    assert str(tmp_path) in message and "MiB free" in message
    assert "step 5 is intact" in message and "--resume" in message


async def test_a_state_that_is_not_json_is_refused_and_leaves_nothing(
    store: CheckpointStore, tmp_path: Path
):
    with pytest.raises(CheckpointError, match="There is no older one"):
        await store.save(5, {"loss": math.nan}, [], write_model)
    assert names(tmp_path) == []


async def test_a_real_full_disk(tmp_path: Path):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("cannot mount a small tmpfs here (needs root)")
    try:
        store = CheckpointStore(tmp_path, keep_last=1)
        await store.save(1, {}, [], write_model)

        async def write_too_much(folder: Path) -> None:
            (folder / "big.bin").write_bytes(os.urandom(2**21))

        with pytest.raises(CheckpointError, match=r"No space left.*\(0 MiB free\)"):
            await store.save(2, {}, [], write_too_much)
        latest = store.latest()
        assert latest is not None and latest.step == 1
        await store.save(3, {}, [], write_model)  # the space came back
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


async def test_what_a_killed_process_left_is_ignored_and_tidied(
    store: CheckpointStore, tmp_path: Path
):
    await store.save(5, {}, [], write_model)
    partial = tmp_path / "checkpoints" / ".tmp-step-000010"
    shutil.copytree(tmp_path / "checkpoints" / "step-000005", partial)
    latest = store.latest()
    assert latest is not None and latest.step == 5
    await store.save(15, {}, [], write_model)
    assert names(tmp_path) == ["step-000005", "step-000015"]


async def test_a_cancelled_save_is_not_a_checkpoint(store: CheckpointStore):
    async def hang(folder: Path) -> None:
        await asyncio.sleep(60)

    saving = asyncio.ensure_future(store.save(5, {}, [], hang))
    await asyncio.sleep(0.05)
    saving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await saving
    assert store.latest() is None
    await store.save(5, {}, [], write_model)
    latest = store.latest()
    assert latest is not None and latest.step == 5


def flip_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: (path / "model" / "weights.bin").unlink(), "model/weights.bin is missing"),
        (lambda path: os.truncate(path / "model" / "weights.bin", 999), "has 999 bytes, 1000 were"),
        (lambda path: flip_bit(path / "model" / "weights.bin"), "model/weights.bin was altered"),
        (lambda path: flip_bit(path / "groups.jsonl.zst"), "groups.jsonl.zst was altered"),
        (lambda path: (path / "manifest.json").write_text("{"), "cannot read manifest.json"),
        (lambda path: (path / "manifest.json").unlink(), "not a complete checkpoint"),
        (
            lambda path: (path / "manifest.json").write_text(json.dumps({"format": 99})),
            "has format 99",
        ),
    ],
)
async def test_damage_is_named_and_never_skipped_silently(
    store: CheckpointStore, tmp_path: Path, damage, says: str
):
    await store.save(5, {}, [make_group(0)], write_model)
    damage(await store.save(10, {}, [make_group(1)], write_model))
    with pytest.raises(CheckpointError, match=says) as caught:
        store.latest()
    assert "Delete that folder to resume from step 5" in str(caught.value)
    shutil.rmtree(tmp_path / "checkpoints" / "step-000010")
    latest = store.latest()
    assert latest is not None and latest.step == 5


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"it has no config.json.*metrics.jsonl"):
        require_run(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        require_run(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text("{}")
    require_run(tmp_path)


def hold_lock(run_dir: Path, ready, release) -> None:
    with lock(run_dir):
        ready.set()
        release.wait(30)


def test_two_processes_cannot_hold_one_run(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    ready, release = context.Event(), context.Event()
    holder = context.Process(target=hold_lock, args=(tmp_path, ready, release))
    holder.start()
    try:
        assert ready.wait(30)
        in_use = pytest.raises(CheckpointError, match=f"in use by process {holder.pid} on ")
        with in_use, lock(tmp_path):
            pass
        holder.kill()  # even so, the lock is free at once
        holder.join()
        with lock(tmp_path):
            pass
    finally:
        holder.kill()


@pytest.mark.parametrize("manifest", ["", "[]", "{}", '{"format": 1, "step": 5}', "\x00"])
async def test_a_damaged_manifest_is_told_as_such(store: CheckpointStore, manifest: str):
    path = await store.save(5, {}, [], write_model)
    (path / "manifest.json").write_text(manifest)
    with pytest.raises(CheckpointError, match="is damaged: cannot read manifest"):
        store.latest()
