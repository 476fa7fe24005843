"""The shell scripts, without installing anything: a copy of them in a folder of stand-ins."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = [*sorted((ROOT / "scripts").glob("*.sh")), ROOT / ".ci" / "run"]

# Answers as the real programs do; appends each command line to $CALLS.
FAKE_PYTHON = r"""#!/usr/bin/env bash
echo "python $*" >>"$CALLS"
case "$*" in
    *--version*) echo "Python ${FAKE_VERSION:-3.11.9}" ;;
    *sys.version_info*) [[ ${FAKE_VERSION:-3.11.9} == 3.1[1-4]* ]] ;;
    *sysconfig*) echo "$FAKE_INCLUDE" ;;
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    *"${FAIL_ON:-nothing fails}"*) echo "the network is down" && exit 1 ;;
    -) cat >/dev/null ;;
esac
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone whose only Python, compiler and package manager are stand-ins."""
    folder = tmp_path / "clone"
    (folder / "scripts").mkdir(parents=True)
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    for script in (ROOT / "scripts").glob("*.sh"):
        shutil.copy(script, folder / "scripts")
    (folder / "bin").mkdir()
    for name in ("python3", "g++"):
        stand_in(folder, name, FAKE_PYTHON)
    for name in ("nvidia-smi", "apt-get"):
        stand_in(folder, name, "#!/bin/sh\nexit 1\n")
    (folder / "Python.h").touch()
    return folder


def stand_in(clone: Path, name: str, script: str) -> None:
    (clone / "bin" / name).write_text(script)
    (clone / "bin" / name).chmod(0o755)


def setup(clone: Path, *options: str, **environment: str) -> tuple[int, str, list[str]]:
    """Run set-up: (exit status, what it printed, the command lines of this run)."""
    calls = clone / "calls"
    calls.unlink(missing_ok=True)
    done = subprocess.run(
        [clone / "scripts" / "setup.sh", *options],
        env={
            "PATH": f"{clone / 'bin'}:/usr/bin:/bin",
            "CALLS": str(calls),
            "FAKE_INCLUDE": str(clone),
            **environment,
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    lines = calls.read_text().splitlines() if calls.exists() else []
    return done.returncode, done.stdout + done.stderr, lines


def installs(calls: list[str]) -> list[str]:
    return [call for call in calls if "pip install" in call]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_script_parses_and_is_executable(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith("#!/usr/bin/env bash\n")


@pytest.mark.parametrize("name", ["setup.sh", "test.sh"])
def test_help_is_the_comment_at_the_top(name: str) -> None:
    done = subprocess.run(
        [ROOT / "scripts" / name, "--help"], capture_output=True, text=True, check=True
    )
    assert f"scripts/{name} --" in done.stdout
    assert "set -" not in done.stdout


def test_the_first_run_installs_and_the_second_does_nothing(clone: Path) -> None:
    status, output, calls = setup(clone)
    assert status == 0, output
    assert any("-c constraints.txt -e .[cpu,dev" in call for call in installs(calls))
    status, output, calls = setup(clone)
    assert (status, output, installs(calls)) == (0, "", [])


def test_torch_comes_first_without_an_extra_index(clone: Path) -> None:
    _, _, calls = setup(clone)
    torch, rlvr = (call for call in installs(calls) if "--upgrade pip" not in call)
    assert re.search(r"torch==[\d.]+\+cpu$", torch)
    assert "-e ." in rlvr
    assert not any("index-url" in call for call in calls)


def test_the_extra_index_is_asked_when_there_is_no_cpu_build(clone: Path) -> None:
    _, output, calls = setup(clone, FAIL_ON="disable-pip-version-check torch==")
    assert "fetching torch" in output
    assert any("--extra-index-url" in call and "torch==" in call for call in installs(calls))
    assert not any("--extra-index-url" in call and "-e ." in call for call in calls)


@pytest.mark.parametrize("changed", ["pyproject.toml", "constraints.txt"])
def test_a_changed_requirement_installs_again(clone: Path, changed: str) -> None:
    setup(clone)
    with (clone / changed).open("a") as file:
        file.write("\n# changed\n")
    assert installs(setup(clone)[2])


def test_another_extra_or_another_python_installs_again(clone: Path) -> None:
    setup(clone)
    assert any(".[gpu,dev" in call for call in installs(setup(clone, "--extra", "gpu")[2]))
    assert installs(setup(clone, "--extra", "gpu", FAKE_VERSION="3.12.1")[2])


def test_a_failed_install_says_why_and_goes_on_next_time(clone: Path) -> None:
    status, output, _ = setup(clone, FAIL_ON="-e .")
    assert status == 1
    assert "the network is down" in output and "setup.log" in output
    status, _, calls = setup(clone)
    assert status == 0
    assert not any("-m venv" in call for call in calls)


def test_a_package_cut_off_half_way_is_installed_anew(clone: Path) -> None:
    setup(clone, FAIL_ON="-e .")
    packages = clone / ".venv" / "lib" / "python3.11" / "site-packages"
    for name in ("whole-1.dist-info", "half-1.dist-info", "~orch"):
        (packages / name).mkdir(parents=True)
    (packages / "whole-1.dist-info" / "RECORD").touch()
    setup(clone)
    assert [path.name for path in packages.iterdir()] == ["whole-1.dist-info"]


def test_a_moved_folder_gets_a_new_environment(clone: Path) -> None:
    setup(clone)
    moved = clone.rename(clone.with_name("moved"))
    status, output, calls = setup(moved)
    assert status == 0, output
    assert any("-m venv" in call for call in calls)


def test_a_gpu_machine_gets_the_gpu_extra(clone: Path) -> None:
    stand_in(clone, "nvidia-smi", "#!/bin/sh\necho 'GPU 0: H100'\n")
    _, _, calls = setup(clone)
    assert any(".[gpu,dev" in call for call in installs(calls))
    assert not any("+cpu" in call for call in calls)


def test_an_old_python_is_refused_with_what_is_needed(clone: Path) -> None:
    status, output, calls = setup(clone, PYTHON="python3", FAKE_VERSION="3.9.2")
    assert status == 1
    assert "3.11" in output
    assert not installs(calls)


def test_a_missing_compiler_is_a_warning_with_a_way_out(clone: Path) -> None:
    (clone / "Python.h").unlink()
    status, output, calls = setup(clone)
    assert status == 0
    assert "enforce_eager=true" in output
    assert any("-e .[cpu,dev]" in call for call in installs(calls))  # without reasoning-gym


def test_an_unknown_option_is_refused(clone: Path) -> None:
    status, output, _ = setup(clone, "--gpu")
    assert (status, "unknown option --gpu" in output) == (1, True)


def test_a_docker_that_cannot_be_had_is_not_an_error(clone: Path) -> None:
    setup(clone)
    stand_in(clone, "docker", "#!/bin/sh\necho 'Cannot connect to the daemon' >&2\nexit 1\n")
    stand_in(clone, "dockerd", "#!/bin/sh\nexit 1\n")
    stand_in(clone, "id", "#!/bin/sh\necho 1000\n")
    status, output, _ = setup(clone, "--docker")
    assert status == 0
    assert "no Docker: Cannot connect to the daemon" in output


def test_constraints_pin_every_direct_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    pinned = {canonicalize_name(pin.name): pin for pin in pins}
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    for wanted in (Requirement(line) for group in groups for line in group):
        pin = pinned.get(canonicalize_name(wanted.name))
        assert pin is not None, f"{wanted.name} is not in constraints.txt"
        version = next(iter(pin.specifier)).version
        assert wanted.specifier.contains(version, prereleases=True), f"{pin} against {wanted}"
