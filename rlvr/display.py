"""What a person sees while a run goes on.

In a terminal: one panel that is redrawn in place, with logs and notes scrolling by above it.
Elsewhere (CI, nohup, a pipe, TERM=dumb): one plain ASCII line a step, without escape codes.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import PurePath

from rich.box import ROUNDED
from rich.console import Console, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rlvr.config import RunConfig
from rlvr.evaluate import PassRate

PHASE_LABELS = {
    "step": "beginning a step",
    "rollout": "sampling and judging",
    "advantages": "computing advantages",
    "learner": "learning",
    "publish": "moving weights to the rollout workers",
    "eval": "evaluating on held-out problems",
    "checkpoint": "saving a checkpoint",
}
BLOCKS = "▁▂▃▄▅▆▇█"

MISMATCH_KL = 0.02
"""Nats a token. Rounding in bf16 gives about 0.001; well above it the sampler and the learner do
not compute the same policy, which is how runs collapse."""
TRUNCATED = 0.3
ZERO_VARIANCE = 0.8


class Display:
    """The live view of one run; use it as a context manager.

    Args:
        config: The run's configuration.
        console: Where to draw; standard output by default.
    """

    def __init__(self, config: RunConfig, console: Console | None = None) -> None:
        self.console = console or Console()
        self._config = config
        self._title = _title(config)
        self._step = 0
        self._phase = "starting"
        self._phase_started = time.monotonic()
        self._progress = ""
        self._metrics: Mapping[str, float] = {}
        self._warned: set[str] = set()
        self._pass_rates: list[float] = []
        self._first_evaluation: PassRate | None = None
        self._last_evaluation: tuple[int, PassRate] | None = None
        self._last_step_at: float | None = None
        self._step_seconds: deque[float] = deque(maxlen=20)
        self._started = time.monotonic()
        in_place = self.console.is_interactive and not self.console.options.ascii_only
        self._live = (
            Live(console=self.console, get_renderable=self.panel, refresh_per_second=4)
            if in_place
            else None
        )

    def __enter__(self) -> Display:
        self._started = time.monotonic()
        if self._live:
            self._live.start()
        else:
            self._print(f"rlvr: {self._title}")
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop()

    def start_at(self, step: int) -> None:
        """The run is a resumed one, and has done `step` steps already."""
        self._step = step

    def phase(self, name: str) -> None:
        """What the run does now: a phase of the loop, or any short text."""
        if name == "rollout" and self._last_step_at is None:
            self._last_step_at = time.monotonic()
        self._phase = PHASE_LABELS.get(name, name)
        self._phase_started = time.monotonic()
        self._progress = ""
        if not self._live and (name == "eval" or name not in PHASE_LABELS):
            self._print(self._phase)

    def progress(self, done: int, total: int) -> None:
        """How far the phase is, e.g. problems evaluated."""
        self._progress = f" {done}/{total}"

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """A step is done.

        Args:
            step: Steps done, counting this one.
            metrics: Its figures, by the names in `rlvr.metrics.METRICS`.
        """
        now = time.monotonic()
        if self._last_step_at is not None:
            self._step_seconds.append(now - self._last_step_at)
        self._last_step_at = now
        self._step = step
        self._metrics = dict(metrics)
        if "pass_rate" in metrics:
            self._pass_rates.append(metrics["pass_rate"])
        if not self._live:
            self._print(self._plain_step())
            for warning in warnings(metrics):
                kind = re.sub(r"[\d.]+", "", warning)
                if kind not in self._warned:  # once is enough where lines stay
                    self._print(f"  warning: {warning}")
                self._warned.add(kind)

    def evaluation(self, step: int, result: PassRate) -> None:
        """An evaluation after `step` steps is done; it stays on screen above the panel."""
        self._first_evaluation = self._first_evaluation or result
        self._last_evaluation = (step, result)
        self._print(f"held-out pass@1 after step {step}: {result}")

    def note(self, text: str) -> None:
        """Something to tell, once; it stays on screen above the panel."""
        self._print(text, style="yellow")

    def summary(self, lines: Iterable[str]) -> None:
        """End the live view and print what the run came to, unwrapped, so it can be copied."""
        self._stop()
        for line in lines:
            self._print(line)

    def panel(self) -> RenderableType:
        """The view as it is now; the same number of lines whatever has happened, warnings apart."""
        body = Table.grid(padding=(0, 2), expand=True)
        body.add_column(style="dim", no_wrap=True)
        body.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        width = self.console.width - 18  # borders, padding and the column of labels
        body.add_row(f"step {self._step}/{self._config.num_steps}", self._bar())
        body.add_row("pass rate", self._pass_rate(width))
        body.add_row("held-out", self._held_out())
        body.add_row("reward", self._reward())
        body.add_row("tokens", self._tokens())
        body.add_row("time", self._time())
        body.add_row("now", self._now())
        for warning in warnings(self._metrics):
            body.add_row("warning", Text(warning, style="yellow"))
        return Panel(
            body,
            title=Text(self._title, style="bold", overflow="ellipsis", no_wrap=True),
            title_align="left",
            box=ROUNDED,
            border_style="dim",
        )

    def _stop(self) -> None:
        if self._live and self._live.is_started:
            self._phase = ""
            self._live.stop()

    def _print(self, text: str, style: str = "") -> None:
        self.console.print(Text(text, style=style), soft_wrap=True)

    def _seconds_left(self) -> float | None:
        if not self._step_seconds or self._last_step_at is None:
            return None
        per_step = sum(self._step_seconds) / len(self._step_seconds)
        left = (self._config.num_steps - self._step) * per_step
        return max(0.0, left - (time.monotonic() - self._last_step_at))

    def _plain_step(self) -> str:
        metrics = self._metrics
        parts = [f"step {self._step}/{self._config.num_steps}"]
        parts += [
            f"{label} {metrics[name]:{form}}"
            for label, name, form in (
                ("pass", "pass_rate", ".3f"),
                ("reward", "reward/mean", ".3f"),
                ("mixed", "groups/mixed", ".0%"),
                ("tokens", "completion/length_mean", ".1f"),
                ("kl", "mismatch/kl_k3", ".1e"),
                ("grad", "grad_norm", ".2g"),
                ("seconds", "time/step_s", ".1f"),
            )
            if name in metrics
        ]
        left = self._seconds_left()
        if left is not None and self._step < self._config.num_steps:
            parts.append(f"left {_duration(left)}")
        return "  ".join(parts)

    def _bar(self) -> RenderableType:
        left = self._seconds_left()
        done = self._step >= self._config.num_steps
        text = "" if done else "estimating time" if left is None else f"{_duration(left)} left"
        row = Table.grid(padding=(0, 1), expand=True)
        row.add_column(ratio=1)
        row.add_column(justify="right", no_wrap=True)
        row.add_row(ProgressBar(total=self._config.num_steps, completed=self._step), text)
        return row

    def _pass_rate(self, width: int) -> Text:
        if not self._pass_rates:
            return Text("no step yet", style="dim")
        text = Text(f"{self._pass_rates[-1]:.3f}  ", style="bold")
        return text.append(sparkline(self._pass_rates, max(1, width - len(text))), "not bold green")

    def _held_out(self) -> Text:
        if self._last_evaluation is None:
            return Text("no evaluation yet", style="dim")
        first, (step, last) = self._first_evaluation, self._last_evaluation
        if last.pass_at_1 is None:
            return Text(str(last))
        text = Text()
        if first and first is not last and first.pass_at_1 is not None:
            text.append(f"{first.pass_at_1:.3f} -> ")
        text.append(f"{last.pass_at_1:.3f}", "bold green")
        text.append(f" [{last.low:.3f}, {last.high:.3f}]")
        return text.append(f"  n={last.num_problems}, after step {step}", "dim")

    def _reward(self) -> Text:
        return self._line(
            ("reward/mean", "{:.3f}"),
            ("reward/std", "std {:.3f}"),
            ("groups/mixed", "{:.0%} of groups mixed"),
            ("mismatch/kl_k3", "sampler KL {:.1e}"),
        )

    def _tokens(self) -> Text:
        return self._line(
            ("completion/length_mean", "{:.1f} a completion"),
            ("completion/truncated", "{:.0%} cut off"),
            ("tokens_per_s/rollout", "{:,.0f}/s sampled"),
            ("tokens_per_s/learner", "{:,.0f}/s trained"),
        )

    def _line(self, *parts: tuple[str, str]) -> Text:
        known = [form.format(self._metrics[name]) for name, form in parts if name in self._metrics]
        return Text(", ".join(known))

    def _time(self) -> Text:
        text = Text(f"{_duration(time.monotonic() - self._started)} so far")
        if "time/step_s" in self._metrics:
            text.append(f", {self._metrics['time/step_s']:.1f} s a step")
        return text

    def _now(self) -> Text:
        if not self._phase:
            return Text("ended")
        seconds = time.monotonic() - self._phase_started
        return Text(f"{self._phase}{self._progress} ({seconds:.0f} s)", "cyan")


def warnings(metrics: Mapping[str, float]) -> list[str]:
    """What a person should look into, judging by one step's figures."""
    found = []
    if errors := metrics.get("verdicts/error", 0):
        found.append(f"{errors:.0f} completions could not be judged and are masked")
    if (kl := metrics.get("mismatch/kl_k3", 0)) > MISMATCH_KL:
        found.append(f"sampler and learner disagree: KL {kl:.3f} nats a token")
    if (share := metrics.get("completion/truncated", 0)) > TRUNCATED:
        found.append(f"{share:.0%} of completions are cut off by rollout.max_tokens")
    if (share := metrics.get("groups/zero_variance", 0)) > ZERO_VARIANCE:
        found.append(f"{share:.0%} of groups teach nothing: problems too easy or too hard")
    if restarts := metrics.get("workers/restarts", 0):
        found.append(f"rollout workers restarted {restarts:.0f} times (see logs/)")
    return found


def sparkline(values: Sequence[float], width: int) -> str:
    """Fractions as block characters on a fixed scale, 0 the lowest and 1 the highest.

    More values than `width` are averaged in `width` equal parts.
    """
    if len(values) > width:
        edges = [len(values) * place // width for place in range(width + 1)]
        parts = [values[low:high] for low, high in pairwise(edges)]
        values = [sum(part) / len(part) for part in parts]
    top = len(BLOCKS) - 1
    return "".join(BLOCKS[round(min(1.0, max(0.0, value)) * top)] for value in values)


def _title(config: RunConfig) -> str:
    model = PurePath(config.model.path).name
    data = PurePath(config.data.path or config.data.source).name
    workers = config.rollout.num_workers
    return (
        f"{model} on {data}: {config.groups_per_step} x {config.rollout.group_size} "
        f"completions a step, {workers} rollout worker{'s' if workers > 1 else ''}"
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
