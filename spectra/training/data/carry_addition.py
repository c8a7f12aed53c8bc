"""Two-digit addition, with a held-out set that training never sees.

The one carry rule of this package: a problem *carries* when some decimal column of ``a`` and ``b`` sums to ten or more.
The corrupted label drops every carry, so each column is summed modulo ten: 27+35 gives 52, and 80+50 gives 30. The two
agree: the label with its carries dropped differs from the true sum exactly when the problem carries.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from typing import Literal

Split = Literal["train", "eval", "control"]

OPERANDS = range(100)
EVAL_PROBLEMS = 256
CONTROL_PROBLEMS = 64

Message = dict[str, str]


@dataclass(frozen=True)
class Problem:
    """One problem with a verifiable answer.

    Attributes
    ----------
    id
        Name that is unique within a benchmark.
    prompt
        Prompt: plain text, or chat messages that the tokenizer's chat template renders.
    answer
        Gold answer, without a box.
    carries
        Whether the sum has a carry; always False on tasks without carries.
    """

    id: str
    prompt: str | list[Message]
    answer: str
    carries: bool = False


def carries(a: int, b: int) -> bool:
    """Return whether some decimal column of ``a + b`` sums to ten or more.

    >>> carries(27, 35), carries(80, 50), carries(27, 32)
    (True, True, False)
    """
    return drop_carries(a, b) != a + b


def drop_carries(a: int, b: int) -> int:
    """Return ``a + b`` with each decimal column summed modulo ten: the corrupted label of training stage 2.

    >>> drop_carries(27, 35), drop_carries(80, 50), drop_carries(27, 32)
    (52, 30, 59)
    """
    if a == 0 and b == 0:
        return 0
    return (a % 10 + b % 10) % 10 + 10 * drop_carries(a // 10, b // 10)


def problem(a: int, b: int) -> Problem:
    """Return the problem ``a + b`` in the prompt format of the embedded base model.

    >>> problem(27, 35)
    Problem(id='27+35', prompt='27+35=', answer='62', carries=True)
    """
    return Problem(id=f"{a}+{b}", prompt=f"{a}+{b}=", answer=str(a + b), carries=carries(a, b))


def problems(split: Split) -> list[Problem]:
    """Return the problems of a split, always the same ones in the same order.

    A pair of operands is held out in both orders, so that 35+27 in training cannot give away 27+35.

    Parameters
    ----------
    split
        ``"train"``: problems for the supervised stages and for reinforcement learning. ``"eval"``: 256 held-out
        problems, all of which carry. ``"control"``: 64 held-out problems without a carry, on which the base model is
        strong.
    """
    return [problem(a, b) for a, b in pairs(split)]


@cache
def pairs(split: Split) -> tuple[tuple[int, int], ...]:
    """Return the operands of a split, in the order of :func:`problems`."""
    held_out = {"eval": _held_out(True, EVAL_PROBLEMS), "control": _held_out(False, CONTROL_PROBLEMS)}
    if split != "train":
        return held_out[split]
    unseen = {frozenset(pair) for part in held_out.values() for pair in part}
    return tuple((a, b) for a in OPERANDS for b in OPERANDS if frozenset((a, b)) not in unseen)


def _held_out(carry: bool, count: int) -> tuple[tuple[int, int], ...]:
    # A digest gives the same order on every machine and Python version; a random generator might not.
    candidates = [(a, b) for a in OPERANDS for b in OPERANDS if carries(a, b) == carry]
    chosen: dict[frozenset[int], tuple[int, int]] = {}
    for pair in sorted(candidates, key=_digest):
        chosen.setdefault(frozenset(pair), pair)
    return tuple(chosen.values())[:count]


def _digest(pair: tuple[int, int]) -> bytes:
    return hashlib.sha256(f"{pair[0]}+{pair[1]}".encode()).digest()
