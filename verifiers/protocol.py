"""What a verifier is, and how whatever it returns becomes a verdict.

A verifier judges one completion of one problem. Four forms are accepted; the registry tells them
apart by signature:

* a class or factory whose instance has `name` and `async def verify(problem, completion)`,
* the same with a plain `def verify`, which runs in a worker process where a hang can be killed,
* a plain function `f(problem, completion)`,
* an async function of the same signature.

Each returns a `Verdict`, a bool, or a score in [0, 1]. Functions whose parameters are called
`problems, completions`, and a method `verify_batch(problems, completions)`, judge many at once and
return a list of these.

An instance may also have

* `in_process = True`: called directly, without a process of its own (see docs/verifiers.md),
* `max_concurrency`: most calls under way at once, in all,
* `max_batch_size`: most completions of one `verify_batch`,
* `timeout_s`: a deadline of its own, in seconds, which counts where it is the longer one,
* `async def close(self)`: awaited by each runner that used it, at that runner's end. Called in the
  process that loaded the verifier; the worker processes of a sync verifier are killed.
"""

from __future__ import annotations

import json
import math
import numbers
from collections.abc import Awaitable
from typing import Protocol

from verifiers.problem import Problem
from verifiers.verdict import Verdict

MAX_DETAIL_CHARS = 65_536
"""A detail is for people to read and goes into every metrics file; one verdict in a million that
carries a program's whole output must not fill the disk."""

Judgement = Verdict | bool | float


class Verifier(Protocol):
    """The full form. `name` appears in logs; `verify` may also be a plain function (see above)."""

    name: str

    def verify(self, problem: Problem, completion: str) -> Awaitable[Judgement] | Judgement: ...


PERMANENT = "permanent"
"""Set to true in the detail of an `error` that trying again cannot mend (a gold that cannot be
parsed): it is not retried. `Verdict.error(reason=..., permanent=True)`."""

DEFAULT_BATCH_SIZE = 32
"""Of a verifier with `verify_batch` that does not say its own `max_batch_size`."""


def to_verdict(result: object) -> Verdict:
    """What a verifier returned, as a verdict that is safe to keep and to send on.

    True and 1 become `correct`, False and 0 `incorrect`, a number between `partial`. Anything else
    is a fault of the verifier and becomes `error`: a number that is not finite or lies outside
    [0, 1] (it says nothing about whether the answer is right: return a `Verdict`, which carries
    any finite reward), another type, or a detail that is not JSON.
    """
    if isinstance(result, Verdict):
        return _plain(result)
    if isinstance(result, numbers.Real):
        score = float(result)
        if math.isfinite(score) and 0.0 <= score <= 1.0:
            return Verdict.graded(score)
        return Verdict.error(
            reason=f"the verifier returned {score}; a plain number is a score in [0, 1], "
            "other rewards need a Verdict"
        )
    return Verdict.error(
        reason=f"the verifier returned {type(result).__name__}; expected a Verdict, a bool, or "
        "a score in [0, 1]"
    )


def to_verdicts(results: object, num: int) -> list[Verdict]:
    """What `verify_batch` returned for `num` completions.

    Raises:
        TypeError: it is not a list (nor a tuple).
        ValueError: it has another length.
    """
    if not isinstance(results, list | tuple):
        raise TypeError(f"verify_batch returned {type(results).__name__}; expected a list")
    if len(results) != num:
        raise ValueError(f"verify_batch returned {len(results)} results for {num} completions")
    return [to_verdict(result) for result in results]


def _plain(verdict: Verdict) -> Verdict:
    """The same verdict, rebuilt from its JSON: no foreign objects, no NaN, bounded size."""
    try:
        text = json.dumps(verdict.to_json(), allow_nan=False)
        plain = Verdict.from_json(json.loads(text))
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        return Verdict.error(reason=f"the verifier's verdict is not JSON-able: {error}")
    if len(text) > MAX_DETAIL_CHARS:
        shown = json.dumps(plain.detail)[:MAX_DETAIL_CHARS]
        return Verdict(status=plain.status, reward=plain.reward, detail={"truncated": shown})
    return plain
