"""`rlvr eval` on the command line."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from rlvr.errors import RlvrError

if TYPE_CHECKING:
    from rlvr.benchmark import Benchmark
    from rlvr.benchmark_loop import Tally


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="A model folder, hub id, built-in name, run (its best checkpoint, else its "
            "newest) or checkpoint; with --endpoint, the served model's name."
        ),
    ],
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="BENCHMARK... [KEY=VALUE]...",
            help="Shipped benchmarks, `reasoning_gym:<task>`, TOML files, recipes (their held-out "
            "data) or data files; then settings, e.g. `n=8 temperature=0.6 limit=100`.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            help="The results directory [default: evals/MODEL-TIME]. The same command goes on "
            "where it was interrupted."
        ),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Ask an OpenAI-compatible server instead of own engines."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the results as JSON, by benchmark.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, print the configuration, stop.")
    ] = False,
) -> None:
    """Measure pass rates, each with its 95 % interval.

    * `rlvr eval smollm2-135m-instruct quickstart n=4`
    * `rlvr eval runs/quickstart-20260101-120000 gsm8k math500 limit=100 --output out`
    * `rlvr eval my/model problems.jsonl data.verifier=number`
    * `rlvr eval served-name humaneval --endpoint http://localhost:8000/v1`
    """
    from rlvr import benchmark

    benchmarks = [word for word in words if "=" not in word]
    overrides = [word for word in words if "=" in word]
    if not benchmarks:
        raise typer.BadParameter("name at least one benchmark (see `rlvr eval --help`)")
    if dry_run:
        _print_plans(benchmark.plan(benchmarks, overrides))
        return
    folder = output or benchmark.default_output(model)
    console = Console(stderr=True)
    with _Bars(console) as bars:
        try:
            results = benchmark.run(
                model,
                benchmarks,
                overrides,
                output=folder,
                endpoint=endpoint,
                report=bars.update,
                note=bars.note,
            )
        except KeyboardInterrupt:
            bars.note(_go_on("stopped", model, words, folder, endpoint))
            raise typer.Exit(130) from None
        except RlvrError:
            if bars.any_sampled:
                bars.note(_go_on("what was sampled is kept", model, words, folder, endpoint))
            raise
    if as_json:
        print(json.dumps(results))
        return
    _print_results(results, folder)


def _go_on(what: str, model: str, words: list[str], folder: Path, endpoint: str | None) -> str:
    served = ["--endpoint", endpoint] if endpoint else []
    command = ["rlvr", "eval", model, *words, *served, "--output", str(folder)]
    return f"{what}; to go on: {shlex.join(command)}"


def _print_plans(plans: list[Benchmark]) -> None:
    for plan in plans:
        typer.echo(
            f"{plan.name}: {len(plan.problems)} problems x {plan.config.n}, verifier "
            f"{plan.verifier['name']} {plan.verifier['version']}",
            err=True,
        )
    print(json.dumps({plan.name: plan.config.model_dump(mode="json") for plan in plans}, indent=1))


def _print_results(results: dict[str, Any], folder: Path) -> None:
    from rlvr.figures import figures_table
    from rlvr.results import REPORT

    console = Console()
    for name, found in results.items():
        console.print(figures_table(f"{found['model']['name']} on {name}", found["figures"]))
        rate = found["tokens"] / max(found["seconds"], 1e-9)
        print(f"{found['tokens']:,} tokens in {found['seconds']:.1f} s ({rate:,.0f} tokens/s)\n")
    print(f"{folder / REPORT}")


class _Bars:
    """One bar a benchmark on a terminal; elsewhere a line now and then."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._tenths: dict[str, int] = {}
        self.any_sampled = False

    def __enter__(self) -> _Bars:
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._console.is_terminal:  # where it never started, stopping prints an empty line
            self._progress.stop()

    def note(self, text: str) -> None:
        self._console.print(f"rlvr: {text}", soft_wrap=True, markup=False, highlight=False)

    def update(self, name: str, tally: Tally) -> None:
        self.any_sampled |= tally.sampled > 0
        done = f"{tally.judged}/{tally.total} judged"
        if tally.sampled > tally.judged:
            done += f", {tally.sampled} sampled"
        if judged := tally.judged - tally.errors:
            done += f", {tally.correct / judged:.1%} correct"
        if not self._console.is_terminal:
            tenth = 10 * tally.judged // tally.total
            if tenth > self._tenths.setdefault(name, 0):
                self._tenths[name] = tenth
                self.note(f"{name}: {done}")
            return
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=tally.total, text="")
        self._progress.update(self._tasks[name], completed=tally.judged, text=done)
