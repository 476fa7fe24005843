import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from rlvr.config import RunConfig
from rlvr.display import Display, sparkline, warnings
from rlvr.evaluate import PassRate

CONFIG = RunConfig.model_validate({"num_steps": 40, "data": {"path": "sums.jsonl"}})
METRICS = {
    "pass_rate": 0.53125,
    "reward/mean": 0.5,
    "reward/std": 0.25,
    "groups/mixed": 0.63,
    "completion/length_mean": 14.25,
    "completion/truncated": 0.03,
    "tokens_per_s/rollout": 812.0,
    "tokens_per_s/learner": 1240.0,
    "mismatch/kl_k3": 0.0004,
    "grad_norm": 1.25,
    "time/step_s": 18.2,
}


def result(rate: float | None) -> PassRate:
    return PassRate(
        pass_at_1=rate,
        low=None if rate is None else rate - 0.05,
        high=None if rate is None else rate + 0.05,
        num_problems=200,
        num_samples=1,
        num_left_out=0,
        statuses={},
        mean_length=9.0,
        truncated=0.0,
    )


def run(console: Console) -> str:
    with Display(CONFIG, console) as display:
        display.phase("starting vLLM")
        display.phase("eval")
        display.progress(100, 200)
        display.evaluation(0, result(0.125))
        for step in range(1, 4):
            for phase in ("rollout", "learner", "publish"):
                display.phase(phase)
            display.step(step, METRICS)
        display.note("a note with [brackets]")
        display.summary(["done: " + "x" * 100])
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def panel_lines(display: Display, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, no_color=True)
    with console.capture() as capture:
        console.print(display.panel())
    return re.sub(r"\x1b\[[0-9;]*m", "", capture.get()).splitlines()


def interactive(**options) -> Console:
    return Console(
        file=io.StringIO(), width=80, force_terminal=True, force_interactive=True, **options
    )


def test_without_a_terminal_there_is_one_plain_line_a_step():
    output = run(Console(file=io.StringIO()))
    assert output.isascii() and "\x1b" not in output
    steps = [line for line in output.splitlines() if line.startswith("step ")]
    assert [line.split()[1] for line in steps] == ["1/40", "2/40", "3/40"]
    assert "pass 0.531" in steps[0] and "kl 4.0e-04" in steps[0]
    assert "held-out pass@1 after step 0: 0.125 [0.075, 0.175] (n=200 problems x 1)" in output
    assert "starting vLLM\n" in output
    assert "a note with [brackets]\n" in output
    assert "done: " + "x" * 100 in output  # not wrapped


def test_without_a_terminal_a_metric_that_is_missing_is_left_out():
    console = Console(file=io.StringIO())
    with Display(CONFIG, console) as display:
        display.step(1, {})
    assert isinstance(console.file, io.StringIO)
    assert "step 1/40\n" in console.file.getvalue()


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b" not in run(Console(file=io.StringIO(), force_terminal=True))


def test_in_a_terminal_notes_and_evaluations_stay_above_and_the_cursor_comes_back():
    output = run(interactive())
    assert "a note with [brackets]" in output
    assert "held-out pass@1 after step 0" in output
    assert output.rindex("\x1b[?25h") > output.rindex("\x1b[?25l")
    assert "step 1/40  pass" not in output  # the plain lines are for logs


def test_an_error_ends_the_live_view():
    console = interactive()
    with pytest.raises(ZeroDivisionError), Display(CONFIG, console) as display:
        display.phase("rollout")
        raise ZeroDivisionError
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().count("\x1b[?25h") == 1
    console.print("after")
    assert console.file.getvalue().endswith("after\n")


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_COLOR", "1")
    colours = re.findall(r"\x1b\[(?:\d+;)*(?:3\d|4\d|9\d)(?:;\d+)*m", run(interactive()))
    assert colours == []


@settings(deadline=None, max_examples=30)
@given(width=st.integers(30, 200), rates=st.lists(st.floats(0, 1), max_size=300))
def test_the_panel_fits_and_keeps_its_height(width: int, rates: list[float]):
    display = Display(CONFIG, interactive())
    empty = panel_lines(display, width)
    for step, rate in enumerate(rates):
        display.step(step + 1, METRICS | {"pass_rate": rate})
    display.evaluation(0, result(0.125))
    display.evaluation(10, result(0.5))
    lines = panel_lines(display, width)
    assert len(lines) == len(empty)
    assert {cell_len(line) for line in lines} == {width}


def test_the_panel_at_80_columns_says_what_matters():
    display = Display(CONFIG, interactive())
    for step in range(1, 11):
        display.phase("rollout")
        display.step(step, METRICS)
    display.evaluation(0, result(0.125))
    display.evaluation(10, result(0.611))
    display.phase("eval")
    display.progress(120, 200)
    text = "\n".join(panel_lines(display, 80))
    for part in (
        "smollm2-135m-instruct on sums.jsonl",
        "step 10/40",
        "0.531  ▅▅▅▅▅▅▅▅▅▅",
        "0.125 -> 0.611 [0.561, 0.661]  n=200, after step 10",
        "63% of groups mixed, sampler KL 4.0e-04",
        "14.2 a completion, 3% cut off, 812/s sampled, 1,240/s trained",
        "18.2 s a step",
        "evaluating on held-out problems 120/200 (0 s)",
        "left",
    ):
        assert part in text


def test_an_evaluation_without_verdicts_is_shown_as_such():
    display = Display(CONFIG, interactive())
    display.evaluation(0, result(None))
    assert "no verdicts" in "\n".join(panel_lines(display, 80))


@given(values=st.lists(st.floats(-1, 2), max_size=200), width=st.integers(1, 50))
def test_sparkline_has_a_fixed_scale_and_never_overflows(values: list[float], width: int):
    line = sparkline(values, width)
    assert len(line) == min(len(values), width)
    assert set(line) <= set("▁▂▃▄▅▆▇█")


def test_sparkline_by_hand():
    assert sparkline([0.0, 0.5, 1.0], 10) == "▁▅█"
    assert sparkline([0.0, 0.0, 1.0, 1.0], 2) == "▁█"
    assert sparkline([0.5], 10) == sparkline([0.5, 0.5], 10)[0]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("verdicts/error", 3, "3 completions could not be judged"),
        ("mismatch/kl_k3", 0.08, "KL 0.080"),
        ("completion/truncated", 0.45, "45% of completions are cut off"),
        ("groups/zero_variance", 0.9, "90% of groups teach nothing"),
        ("workers/restarts", 2, "restarted 2 times"),
    ],
)
def test_what_needs_a_look_is_said(name: str, value: float, says: str):
    assert warnings(METRICS) == []
    (warning,) = warnings(METRICS | {name: value})
    assert says in warning
