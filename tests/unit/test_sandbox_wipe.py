"""Wiping and the owner's label, without a container."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox import seccomp
from sandbox.inside import place
from sandbox.owner import is_orphan, owner_label


def test_any_tree_is_emptied_without_recursion(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    (tmp_path / "precious").write_text("mine")
    (top / "link").symlink_to(tmp_path)
    os.mkfifo(top / "fifo")
    home = os.open(".", os.O_RDONLY)
    os.chdir(top)
    for _ in range(2000):  # far deeper than a path or the stack allows
        os.mkdir("d" * 100)
        os.chdir("d" * 100)
        Path("file").touch()
    os.fchdir(home)
    os.close(home)
    place._empty(str(top))
    assert os.listdir(top) == []
    assert (tmp_path / "precious").read_text() == "mine"


def test_names_that_look_like_ours_do_no_harm(tmp_path: Path) -> None:
    for name in (".wipe-0", ".wipe-", "a\nb", "-rf"):
        (tmp_path / name / "inner" / "x").mkdir(parents=True)
    place._empty(str(tmp_path))
    assert os.listdir(tmp_path) == []


def test_a_living_owner_is_no_orphan_and_a_dead_one_is() -> None:
    assert not is_orphan(owner_label())
    child = subprocess.run(
        [sys.executable, "-c", "from sandbox.owner import owner_label; print(owner_label())"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert is_orphan(child.stdout)


def test_another_process_with_the_same_number_is_another_owner() -> None:
    label = json.loads(owner_label())
    assert is_orphan(json.dumps({**label, "start": "1"}))


@pytest.mark.parametrize("name", ["boot", "pid_namespace"])
def test_owners_elsewhere_are_left_alone(name: str) -> None:
    label = json.loads(owner_label())
    assert not is_orphan(json.dumps({**label, "start": "1", name: "elsewhere"}))


@pytest.mark.parametrize("label", ["", "{}", "[]", "nonsense", '{"pid": "x"}'])
def test_labels_that_are_not_ours_are_left_alone(label: str) -> None:
    assert not is_orphan(label)


@pytest.mark.parametrize(
    "name",
    [
        "io_uring_setup",
        "ptrace",
        "process_vm_readv",
        "bpf",
        "userfaultfd",
        "keyctl",
        "add_key",
        "unshare",
        "setns",
        "mount",
        "pivot_root",
        "chroot",
        "perf_event_open",
        "shmget",
        "mq_open",
        "kexec_load",
        "init_module",
        "settimeofday",
        "reboot",
        "open_by_handle_at",
        "pidfd_getfd",
        "personality",
        "seccomp",
        "setpriority",
        "sched_setscheduler",
    ],
)
def test_dangerous_calls_are_not_on_the_list(name: str) -> None:
    rules = seccomp.profile()["syscalls"]
    assert not any(name in rule["names"] for rule in rules)


def test_the_profile_is_an_allow_list_without_repeats() -> None:
    profile = seccomp.profile()
    names = profile["syscalls"][0]["names"]
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    assert len(names) == len(set(names)) and "socket" not in names and "clone" not in names
