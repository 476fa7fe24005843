"""The command line: `rlvr train | eval | score | doctor`."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from rlvr.errors import RlvrError
from rlvr.guard import ensure_our_verifiers
from verifiers.errors import VerifierLoadError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Train language models to reason with verifiable rewards.",
    epilog="Every command takes `--debug` for a full traceback. Docs: the `docs/` folder.",
)


@app.command(no_args_is_help=True)
def train(
    args: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RECIPE KEY=VALUE",
            help="A shipped recipe's name or a TOML file, then settings that win over it, "
            "e.g. `learner.lr=1e-5`.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, print the resolved config, stop.")
    ] = False,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="RUN_DIR", help="Continue a run from its last checkpoint."),
    ] = None,
) -> None:
    """Train a model by GRPO with verifiable rewards.

    * `rlvr train quickstart`: the main job in miniature, on any machine
    * `rlvr train gsm8k data.path=train.jsonl num_steps=100`
    * `rlvr train my_recipe.toml --dry-run`
    * `rlvr train --resume runs/quickstart-20260101-120000`
    """
    from rlvr import launch
    from rlvr.load_config import load_config

    words = list(args or [])
    if resume:
        config, recipe = launch.reopen_run_dir(resume, words), launch.recipe_of(resume)
    else:
        if not words:
            raise typer.BadParameter("name a recipe (see `rlvr train --help`), or use --resume")
        config, recipe = load_config(words[0], words[1:]), words[0]
    plan = launch.plan(config)
    if dry_run:
        launch.print_plan(plan)
        return
    run_dir = resume.resolve() if resume else launch.make_run_dir(config, recipe)
    result = launch.train(plan, run_dir, recipe, resume=resume is not None)
    raise typer.Exit(130 if result.interrupted else 0)


@app.command("eval", no_args_is_help=True)
def evaluate(
    model: Annotated[str, typer.Argument(help="A model folder, hub id, built-in name or run.")],
    data: Annotated[
        str,
        typer.Argument(help="A recipe (its eval data, else its data) or a data file."),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="e.g. `eval.num_samples=4 data.limit=100`"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    output: Annotated[
        Path | None, typer.Option(help="Also write every completion with its verdict (JSONL).")
    ] = None,
) -> None:
    """Measure a model's pass@1 on a data set, with a 95 % interval.

    * `rlvr eval smollm2-135m-instruct quickstart`
    * `rlvr eval runs/quickstart-20260101-120000 quickstart eval.num_samples=4`
    * `rlvr eval my/model problems.jsonl data.verifier=number`
    """
    from rlvr import benchmark

    result = benchmark.run(model, data, overrides or [], output)
    print(json.dumps(result.to_json()) if as_json else f"pass@1 {result}")


@app.command(no_args_is_help=True)
def score(
    verifier: Annotated[
        str, typer.Argument(help="A registered name, `module:attr`, or `path/to/file.py:attr`.")
    ],
    input: Annotated[Path, typer.Argument(metavar="INPUT.jsonl", help="Lines to be judged.")],
    output: Annotated[Path, typer.Option(help="Where the verdicts go, in input order.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Scoring settings, e.g. `timeout_s=5`."),
    ] = None,
) -> None:
    """Judge completions with a verifier.

    Input lines are `{"id": ..., "problem": {...}, "completion": "..."}`, output lines
    `{"id", "status", "reward", "detail", "latency_s"}`. Run the same command again to go on after
    an interruption.
    """
    from rlvr import score_file

    summary = score_file.run(verifier, input, output, overrides or [])
    typer.echo(summary)


@app.command()
def doctor() -> None:
    """Say what works on this machine, and how to mend what does not."""
    from rlvr import doctor as checks

    raise typer.Exit(checks.print_report())


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line. Errors of ours are one paragraph, unless `--debug` is given."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words or os.environ.get("RLVR_DEBUG") == "1"
    words = [word for word in words if word != "--debug"]
    try:
        ensure_our_verifiers()
        app(args=words, prog_name="rlvr")
    except (RlvrError, VerifierLoadError) as error:
        if debug:
            traceback.print_exc()
        print(f"rlvr: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
