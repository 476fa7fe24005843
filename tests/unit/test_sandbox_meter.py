"""Reading cgroups of both versions, and /proc, from files as the kernel writes them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox.inside import meter
from sandbox.inside.run import Unclean, ran_out_of_memory

FILES = {
    "cgroup1": {
        "cpu": "1500000000\n",
        "memory": "cache 9000\nrss 4096\nshmem 8192\ntotal_rss 5000\n",
        "oom": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
    },
    "cgroup2": {
        "cpu": "usage_usec 1500000\nuser_usec 1000000\nsystem_usec 500000\n",
        "memory": "anon 4096\nfile 9000\nshmem 8192\n",
        "oom": "low 0\nhigh 0\nmax 7\noom 5\noom_kill 3\noom_group_kill 0\n",
    },
}


@pytest.mark.parametrize("kind", FILES)
def test_cgroups(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in FILES[kind].items():
        (tmp_path / name).write_text(text)
    paths = tuple(str(tmp_path / name) for name in FILES[kind])
    monkeypatch.setattr(meter, "_TREES", {kind: paths})
    gauge = meter.Meter()
    assert gauge.kind == kind
    assert (gauge.cpu_s(), gauge.memory_bytes(), gauge.oom_kills()) == (1.5, 12288, 3)
    (tmp_path / "cpu").write_text(FILES[kind]["cpu"].replace("15", "25", 1))
    assert gauge.cpu_s() == 2.5  # read anew each time


def test_proc_is_used_where_there_is_no_cgroup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "_TREES", {})
    monkeypatch.setattr(meter, "pids", lambda: [os.getpid(), 2**22 + 1])  # the second is gone
    gauge = meter.Meter()
    before = gauge.cpu_s()
    block = bytearray(os.urandom(1 << 20)) * 40
    assert gauge.kind == "proc" and gauge.oom_kills() == 0
    assert gauge.cpu_s() >= before > 0
    assert gauge.memory_bytes() > len(block)
    assert meter.is_runnable(os.getpid()) and not meter.is_runnable(2**22 + 1)


@pytest.mark.parametrize(
    ("kind", "is_full", "files"),
    [
        ("cgroup1", False, {"most": "260000000\n", "limit": "268435456\n"}),
        ("cgroup1", True, {"most": "268427264\n", "limit": "268435456\n"}),
        ("cgroup2", False, {"oom": "max 0\noom 0\noom_kill 1\n"}),
        ("cgroup2", True, {"oom": "max 9\noom 1\noom_kill 1\n"}),
    ],
)
def test_a_full_machine_is_not_the_programs_fault(
    kind: str,
    is_full: bool,
    files: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, text in {**FILES[kind], "oom": "oom 0\noom_kill 0\n"}.items():
        (tmp_path / name).write_text(text)
    paths = tuple(str(tmp_path / name) for name in FILES[kind])
    monkeypatch.setattr(meter, "_TREES", {kind: paths})
    monkeypatch.setattr(meter, "_CGROUP1_MOST", str(tmp_path / "most"))
    monkeypatch.setattr(meter, "_CGROUP1_LIMIT", str(tmp_path / "limit"))
    gauge = meter.Meter()
    assert not ran_out_of_memory(gauge)  # nothing was killed
    for name, text in {"oom": "oom_kill 1\n", **files}.items():
        (tmp_path / name).write_text(text)
    if is_full:
        assert ran_out_of_memory(gauge)
    else:
        with pytest.raises(Unclean, match="machine"):
            ran_out_of_memory(gauge)
