"""`rlvr sandbox`: the image and the containers that model-written programs run in."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer

from rlvr.errors import ScoringError
from sandbox.errors import SandboxError

app = typer.Typer(
    no_args_is_help=True, help="The sandboxes that model-written programs run in (Docker)."
)


class Method(StrEnum):
    AUTO = "auto"
    REGISTRY = "registry"
    DEBOOTSTRAP = "debootstrap"


@app.command()
def build(
    method: Annotated[
        Method,
        typer.Option(
            help="`registry` pulls a pinned base, `debootstrap` makes a Debian (as root, without "
            "any image registry), `auto` tries both."
        ),
    ] = Method.AUTO,
    mirror: Annotated[
        str | None, typer.Option(help="Debian mirror for debootstrap [default: the system's]")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Build although it is there.")] = False,
) -> None:
    """Make the sandbox image, once."""
    from sandbox import commands

    try:
        tag = commands.build(method=method.value, mirror=mirror, force=force, say=typer.echo)
    except SandboxError as error:
        raise ScoringError(str(error)) from error
    typer.echo(f"the sandbox image is {tag}")


@app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What there is: Docker, its runtimes, the image, our containers."""
    from sandbox import commands

    try:
        found = commands.status()
    except SandboxError as error:
        raise ScoringError(str(error)) from error
    if as_json:
        print(json.dumps(found))
        return
    built = f"{found['image_mb']} MiB" if found["image_mb"] else "not built: rlvr sandbox build"
    typer.echo(f"docker      {found['docker']}, cgroup v{found['cgroup']}")
    typer.echo(f"runtimes    {', '.join(found['runtimes'])}")
    typer.echo(f"image       {found['image']} ({built})")
    typer.echo(f"containers  {len(found['containers'])}")
    for container in found["containers"]:
        orphan = ", its owner is dead: rlvr sandbox clean" if container["orphan"] else ""
        typer.echo(f"  {container['name']}  {container['state']}{orphan}")


@app.command()
def clean(
    images: Annotated[bool, typer.Option("--images", help="Remove the image too.")] = False,
) -> None:
    """Remove containers whose owner is dead, and images of other versions."""
    from sandbox import commands

    try:
        removed = commands.clean(images=images)
    except SandboxError as error:
        raise ScoringError(str(error)) from error
    typer.echo("\n".join(f"removed {name}" for name in removed) or "nothing to remove")
