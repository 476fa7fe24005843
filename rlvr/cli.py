"""The command line: `rlvr train | eval | compare | score | check | sandbox | doctor`."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from rlvr import sandbox_cli
from rlvr.benchmark_cli import evaluate
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
app.add_typer(sandbox_cli.app, name="sandbox")


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


app.command("eval", no_args_is_help=True)(evaluate)


@app.command(no_args_is_help=True)
def compare(
    results: Annotated[
        list[Path],
        typer.Argument(metavar="RESULTS...", help="Two or more results directories of `eval`."),
    ],
    force: Annotated[
        bool,
        typer.Option("--force", help="Compare although data, prompts or verifiers differ."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    k: Annotated[int, typer.Option(help="Compare pass@k instead of avg@n.")] = 1,
) -> None:
    """Is one model better than another, on the same problems?

    * `rlvr compare evals/before evals/after`
    """
    from rlvr import compare as comparison

    raise typer.Exit(comparison.run(results, force, as_json, k))


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


@app.command(no_args_is_help=True)
def check(
    verifier: Annotated[
        str, typer.Argument(help="A registered name, `module:attr`, or `path/to/file.py:attr`.")
    ],
    data: Annotated[
        str | None,
        typer.Argument(help="A data file or recipe; for `reasoning_gym`, a task."),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Score-file lines with a `label`: precision and recall.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Also write the report as one page.")] = None,
    limit: Annotated[int | None, typer.Option(help="Use only so many problems.")] = None,
    dressing: Annotated[
        list[str] | None,
        typer.Option(help="A way of giving an answer that must be read; may be repeated."),
    ] = None,
    bad_golds: Annotated[
        int, typer.Option(help="Golds that may fail to verify before the audit fails.")
    ] = 0,
    min_precision: Annotated[float, typer.Option(help="What `--labels` must reach.")] = 0.99,
    min_recall: Annotated[float, typer.Option(help="What `--labels` must reach.")] = 0.95,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="`timeout_s=5`, `params.strict=true` ..."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Audit a verifier before anyone trains on it; exit status 1 when it fails.

    * `rlvr check math gsm8k_test.jsonl --html report.html`
    * `rlvr check my_verifier.py:judge problems.jsonl --labels labelled.jsonl`
    """
    from rlvr import check as workbench

    status = workbench.run(
        verifier,
        data,
        labels=labels,
        html=html,
        limit=limit,
        as_json=as_json,
        dressings=dressing or [],
        bad_golds=bad_golds,
        min_precision=min_precision,
        min_recall=min_recall,
        overrides=overrides or [],
    )
    raise typer.Exit(status)


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
