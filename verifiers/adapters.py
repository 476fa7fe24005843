"""Reward functions written for other trainers, taken unchanged from a file or a module.

| adapter | calls (all by keyword, but OpenRLHF's three) |
|---|---|
| `trl` | `f(prompts, completions, trainer_state, log_extra, log_metric, **columns)`, many at once |
| `verl` | `f(data_source, solution_str, ground_truth, extra_info)`, or with plurals for many |
| `openrlhf` | `f(queries, prompts, labels)`, many at once |

Each may be async. They run in worker processes, so a hang is killed and a crash is an `error`.

What a number says of the answer is for us to decide: `correct` from `correct_at` on, `incorrect` at
0 and below, `partial` between. The reward stays as it is. NaN and infinity are an `error`.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any

from verifiers.compose import NOT_APPLICABLE
from verifiers.errors import VerifierLoadError
from verifiers.problem import Problem
from verifiers.registry import locate
from verifiers.verdict import Status, Verdict

GOLD_NAMES = ("answer", "solution", "ground_truth", "target")
"""What data sets for TRL call the gold answer."""


class _Adapter:
    """A reward function of another trainer.

    Args:
        function: `path/to/file.py:attr` or `module:attr`.
        arguments: further keyword arguments of every call.
        correct_at: least reward that means `correct`.
    """

    name = ""

    def __init__(
        self,
        *,
        function: str,
        arguments: Mapping[str, Any] | None = None,
        correct_at: float = 1.0,
    ) -> None:
        self._function, _ = locate(function)
        if not callable(self._function) or inspect.isclass(self._function):
            raise VerifierLoadError(f"{self.name}: {function!r} is not a function")
        self._spec = function
        self._arguments = dict(arguments or {})
        self._correct_at = correct_at
        self._parameters = inspect.signature(self._function).parameters
        self._any_keyword = any(
            parameter.kind is inspect.Parameter.VAR_KEYWORD
            for parameter in self._parameters.values()
        )
        self.name = f"{self.name}:{function.rpartition(':')[2]}"

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        result = self._function(*args, **kwargs, **self._arguments)
        return asyncio.run(_awaited(result)) if inspect.isawaitable(result) else result

    def _required(self, num_positional: int = 0) -> list[str]:
        """Names that must be passed, after the first `num_positional`."""
        return [
            name
            for name, parameter in list(self._parameters.items())[num_positional:]
            if parameter.default is inspect.Parameter.empty
            and parameter.kind
            in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        ]

    def _verdict(
        self, reward: Any, score: Any = None, detail: Mapping[str, Any] | None = None
    ) -> Verdict:
        """The verdict for a reward; a `score` in [0, 1], if there is one, decides the status."""
        if reward is None:
            return Verdict.error(
                reason=f"{self._spec} returned None: it has nothing to say of this problem",
                permanent=True,
                **{NOT_APPLICABLE: True},
            )
        number = _number(reward)
        decisive = number if score is None else _number(score)
        if number is None or decisive is None:
            shown = reward if number is None else score
            return Verdict.error(
                reason=f"{self._spec} returned {shown!r}, expected a finite number"
            )
        status = Status.PARTIAL
        if decisive >= (self._correct_at if score is None else 1.0):
            status = Status.CORRECT
        elif decisive <= 0.0:
            status = Status.INCORRECT
        return Verdict(status=status, reward=number, detail=dict(detail or {}))


class TrlVerifier(_Adapter):
    """A reward function of TRL's GRPOTrainer: `f(completions, **columns) -> list[float | None]`
    (https://huggingface.co/docs/trl/grpo_trainer#using-a-custom-reward-function).

    `columns` are the problems' metadata, each a list with one entry a completion (null where a
    problem has none), and the gold answer. What TRL would pass and we have not: `completion_ids`
    (no tokens here) and a `trainer_state` (it is null). None is "not applicable": `weighted` leaves
    it out, alone it is an `error`.

    Args:
        answer_column: the keyword the gold answer goes by; null: each of `GOLD_NAMES` that no
            metadata field has.
        conversational: completions are lists of one chat message, as in TRL where the prompt is
            messages; null: as each problem's prompt.
    """

    name = "trl"

    def __init__(
        self,
        *,
        function: str,
        answer_column: str | None = None,
        conversational: bool | None = None,
        arguments: Mapping[str, Any] | None = None,
        correct_at: float = 1.0,
    ) -> None:
        super().__init__(function=function, arguments=arguments, correct_at=correct_at)
        self._gold_names = GOLD_NAMES if answer_column is None else (answer_column,)
        self._conversational = conversational
        if "completion_ids" in self._required():
            raise VerifierLoadError(f"{self.name} needs completion_ids, which verifiers do not get")

    def verify_batch(
        self, problems: Sequence[Problem], completions: Sequence[str]
    ) -> list[Verdict]:
        shown: list[dict[str, Any]] = [{} for _ in problems]
        chat = [self._is_chat(problem) for problem in problems]
        keywords: dict[str, Any] = {
            **self._columns(problems),
            "trainer_state": None,
            "log_extra": lambda column, values: _spread(shown, column, values),
            "log_metric": lambda name, value: None,
            "prompts": [
                _messages(problem) if is_chat else problem.prompt_text
                for problem, is_chat in zip(problems, chat, strict=True)
            ],
            "completions": [
                [{"role": "assistant", "content": text}] if is_chat else text
                for text, is_chat in zip(completions, chat, strict=True)
            ],
        }
        missing = [name for name in self._required() if name not in {*keywords, *self._arguments}]
        if missing:
            return [
                Verdict.error(
                    reason=f"{self._spec} needs {missing[0]!r}, which is no metadata field; if it "
                    "is the gold answer, set answer_column",
                    permanent=True,
                )
            ] * len(problems)
        if not self._any_keyword:
            keywords = {name: keywords[name] for name in keywords if name in self._parameters}
        try:
            rewards = _listed(self._call(**keywords), len(problems), self._spec)
        except (TypeError, AttributeError) as error:
            raise TypeError(
                f"{self._spec} raised {error!r}; it was given completions that are "
                f"{'messages' if any(chat) else 'strings'}, see the parameter conversational"
            ) from error
        return [
            self._verdict(reward, detail=detail)
            for reward, detail in zip(rewards, shown, strict=True)
        ]

    def _is_chat(self, problem: Problem) -> bool:
        if self._conversational is not None:
            return self._conversational
        return not isinstance(problem.prompt, str)

    def _columns(self, problems: Sequence[Problem]) -> dict[str, list[Any]]:
        names = {name for problem in problems for name in problem.metadata}
        columns = {name: [problem.metadata.get(name) for problem in problems] for name in names}
        golds = [problem.answer for problem in problems]
        return {**dict.fromkeys(self._gold_names, golds), **columns}


class VerlVerifier(_Adapter):
    """A `compute_score` of verl (https://verl.readthedocs.io/en/latest/preparation/reward_function.html)
    that returns a number, or a table with `score` (and `acc`, which then decides the status).

    `data_source` and `extra_info` come from the metadata fields of these names (without the latter,
    `extra_info` is all of the metadata); `ground_truth` from `metadata["reward_model"]` as in
    verl's data, else the gold answer. A function with the parameter `solution_strs` is called with
    many at once.
    """

    name = "verl"

    def __init__(
        self,
        *,
        function: str,
        arguments: Mapping[str, Any] | None = None,
        correct_at: float = 1.0,
    ) -> None:
        super().__init__(function=function, arguments=arguments, correct_at=correct_at)
        if "solution_strs" in self._parameters:
            self.verify_batch: Callable[..., list[Verdict]] = self._judge_batch
        else:
            self.verify: Callable[..., Verdict] = self._judge_one

    def _judge_one(self, problem: Problem, completion: str) -> Verdict:
        return self._from_result(self._call(solution_str=completion, **_verl_columns(problem)))

    def _judge_batch(
        self, problems: Sequence[Problem], completions: Sequence[str]
    ) -> list[Verdict]:
        rows = [_verl_columns(problem) for problem in problems]
        columns = {f"{name}s": [row[name] for row in rows] for name in rows[0]}
        results = self._call(solution_strs=list(completions), **columns)
        return [self._from_result(one) for one in _listed(results, len(problems), self._spec)]

    def _from_result(self, result: Any) -> Verdict:
        if isinstance(result, Mapping):
            if "score" not in result:
                return Verdict.error(reason=f"{self._spec} returned a table without 'score'")
            return self._verdict(result["score"], result.get("acc"), _jsonable(result))
        if isinstance(result, tuple | list) and result:
            return self._verdict(result[0])
        return self._verdict(result)


class OpenRlhfVerifier(_Adapter):
    """A `reward_func` of OpenRLHF (https://github.com/OpenRLHF/OpenRLHF, reinforced fine-tuning)
    that returns a tensor, a list, or a table with `rewards` (and `scores`, which then decide the
    status, and `extra_logs`, shown in `detail` where they have one entry a completion).

    A query is the prompt's text and the completion, without the special tokens of a chat template.

    Args:
        label_field: metadata field for `labels`; null: the gold answer.
    """

    name = "openrlhf"

    def __init__(
        self,
        *,
        function: str,
        label_field: str | None = None,
        arguments: Mapping[str, Any] | None = None,
        correct_at: float = 1.0,
    ) -> None:
        super().__init__(function=function, arguments=arguments, correct_at=correct_at)
        self._label_field = label_field

    def verify_batch(
        self, problems: Sequence[Problem], completions: Sequence[str]
    ) -> list[Verdict]:
        prompts = [problem.prompt_text for problem in problems]
        queries = [prompt + text for prompt, text in zip(prompts, completions, strict=True)]
        field = self._label_field
        labels = [
            problem.answer if field is None else problem.metadata.get(field) for problem in problems
        ]
        result = self._call(queries, prompts, labels)
        num = len(problems)
        if not isinstance(result, Mapping):
            return [self._verdict(reward) for reward in _listed(result, num, self._spec)]
        rewards = _listed(result["rewards"], num, self._spec)
        scores: Sequence[Any] = [None] * num
        if result.get("scores") is not None:
            scores = _listed(result["scores"], num, self._spec)
        shown: list[dict[str, Any]] = [{} for _ in problems]
        for key, values in (result.get("extra_logs") or {}).items():
            _spread(shown, key, values)
        return [
            self._verdict(reward, score, detail)
            for reward, score, detail in zip(rewards, scores, shown, strict=True)
        ]


def _verl_columns(problem: Problem) -> dict[str, Any]:
    metadata = problem.metadata
    model = metadata.get("reward_model")
    truth = model.get("ground_truth") if isinstance(model, Mapping) else None
    return {
        "data_source": metadata.get("data_source", ""),
        "ground_truth": problem.answer if truth is None else truth,
        "extra_info": metadata.get("extra_info", metadata),
    }


async def _awaited(result: Any) -> Any:
    return await result


def _messages(problem: Problem) -> list[dict[str, str]]:
    if isinstance(problem.prompt, str):
        return [{"role": "user", "content": problem.prompt}]
    return [dict(message) for message in problem.prompt]


def _number(value: Any) -> float | None:
    """A finite number out of whatever numeric type (numpy's and torch's scalars too), else null."""
    if isinstance(value, str | bytes):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # torch raises the last
        return None
    return number if isfinite(number) else None


def _listed(values: Any, num: int, spec: str) -> list[Any]:
    """One value a completion, out of a list, a tensor or an array.

    Raises:
        ValueError: there are more or fewer.
    """
    try:
        listed = list(values)
    except TypeError:  # a single number, also as a tensor without dimensions
        listed = [values]
    if len(listed) != num:
        raise ValueError(f"{spec} returned {len(listed)} rewards for {num} completions")
    return listed


def _spread(shown: list[dict[str, Any]], key: str, values: Any) -> None:
    """Put one of `values` into each completion's detail, if there are as many and they are JSON."""
    try:
        listed = [_plain(value) for value in values]
    except TypeError:  # one number for the whole batch says nothing of one completion
        return
    if len(listed) == len(shown):
        for row, value in zip(shown, listed, strict=True):
            row[str(key)] = value


def _jsonable(table: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(key): _plain(value) for key, value in table.items()}


def _plain(value: Any) -> Any:
    """The value if it is JSON, else its number, else its text."""
    try:
        json.dumps(value, allow_nan=False)
        return value
    except (TypeError, ValueError):
        number = _number(value)
        return str(value)[:200] if number is None else number
