r"""Verifiable rewards: the answer in ``\boxed{}``, compared as mathematics by math-verify, and the format.

The last ``\boxed{`` of a completion counts, and it must be closed. math-verify alone behaves differently: it joins
neighboring boxes into one set, so ``\boxed{52} \boxed{62}`` is read as {52, 62}, and it reads numbers outside any box.
Here the box is extracted first and math-verify sees nothing else.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from spectra.training.rewards.math_equality import BOX, readable
from spectra.training.rewards.sandbox import check, parallel_map

Message = Mapping[str, Any]
Reward = Callable[..., list[float]]

# Gold answers that only their generator can check, see ``spectra.training.data.sources.generators``.
GENERATED = "reasoning_gym:"
THOUGHT_END = "</think>"
_REMEMBERED = 65536

_TEXT = re.compile(r"\\text\w*\{([^{}]*)\}")
_INTEGER = re.compile(r"-?[0-9]{1,256}")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace is a character of the answer


def boxed_answer_reward(
    completions: Sequence[str | Sequence[Message]], answer: Sequence[str], **kwargs: Any
) -> list[float]:
    r"""Return 1.0 for each completion whose last box holds its gold answer, else 0.0: TRL's reward signature.

    Thread-safe: an answer is checked within 1.5 s of processor time, in a separate process with bounded memory, and
    counts as wrong beyond these limits. Two integers are compared without a process.

    Parameters
    ----------
    completions
        Texts, or lists of chat messages, of which the content of the last one counts.
    answer
        Gold answers, one per completion, with or without ``\boxed{}`` around them.
    **kwargs
        Further dataset columns, which TRL passes to every reward; not used.

    Returns
    -------
    list of float
        1.0 or 0.0 per completion. No box, an empty box and an unclosed last box give 0.0, and so does an unevaluated
        sum or product where the gold answer is a number: ``27+35`` restates the problem.

    Raises
    ------
    MissingDependencyError
        If math-verify is not installed, or reasoning-gym for problems that it generated.
    """
    pairs = [(_text(completion), str(gold)) for completion, gold in zip(completions, answer, strict=True)]
    return [float(truth) for truth in are_correct(pairs)]


def format_reward(weight: float) -> Reward:
    r"""Return a reward function: ``weight`` for each completion that closes its reasoning once, and then answers.

    The completion must have ``</think>`` exactly once, and a closed, non-empty ``\boxed{}`` after it. A ``<think>``
    before it is not required: many chat templates end the prompt with it.
    """

    def formatted(completions: Sequence[str | Sequence[Message]], **kwargs: Any) -> list[float]:
        return [weight * is_formatted(_text(completion)) for completion in completions]

    formatted.__name__ = "format_reward"  # the name that TRL logs it under
    return formatted


def is_formatted(completion: str) -> bool:
    r"""Return whether a completion closes its reasoning once and boxes an answer after it.

    >>> is_formatted(r"27+35 is 62</think> \boxed{62}"), is_formatted(r"\boxed{62}</think> 62")
    (True, False)
    """
    _, end, rest = completion.partition(THOUGHT_END)
    return bool(end) and THOUGHT_END not in rest and bool((last_box(rest) or "").strip())


def is_correct(completion: str, gold: str) -> bool:
    r"""Return whether the last box of ``completion`` holds ``gold``. Never raises on a malformed completion.

    A gold answer that math-verify cannot parse is compared as text.

    >>> is_correct(r"so \boxed{\frac{124}{2}}", "62"), is_correct(r"\boxed{62} or \boxed{", "62")
    (True, False)
    """
    return are_correct([(completion, gold)])[0]


def are_correct(pairs: Sequence[tuple[str, str]]) -> list[bool]:
    """Return :func:`is_correct` of each pair of completion and gold answer, in parallel where there are many."""
    boxes = [((last_box(completion) or "").strip(), gold) for completion, gold in pairs]
    distinct = list(dict.fromkeys(boxes))
    truths = dict(zip(distinct, parallel_map(lambda box: _holds(*box), distinct), strict=True))
    return [truths[box] for box in boxes]


def last_box(text: str) -> str | None:
    r"""Return the content of the last ``\boxed{…}``, or None if there is none or it is not closed.

    >>> last_box(r"\boxed{52}, no, \boxed{\frac{1}{2}}."), last_box(r"\boxed{52} \boxed{6")
    ('\\frac{1}{2}', None)
    """
    _, box, rest = text.rpartition(BOX)
    depth = 1
    for brace in _BRACE.finditer(rest if box else ""):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return rest[: brace.start()]
    return None


def _text(completion: str | Sequence[Message]) -> str:
    if isinstance(completion, str):
        return completion
    content = completion[-1].get("content") if completion else None
    return content if isinstance(content, str) else ""


def _holds(content: str, gold: str) -> bool:
    if not content:
        return False
    if gold.startswith(GENERATED):
        return _checked("reasoning_gym", gold.removeprefix(GENERATED), _unwrapped(content))
    expected = _bare(gold)
    if content == expected or not readable(content):
        return content == expected
    if _INTEGER.fullmatch(content) and _INTEGER.fullmatch(expected):  # math-verify agrees, and costs a process
        return int(content) == int(expected)
    return _checked("maths", expected, content)


def _bare(gold: str) -> str:
    boxed = last_box(gold)
    return (gold if boxed is None else boxed).strip().strip("$").strip()


def _unwrapped(content: str) -> str:
    text = _TEXT.fullmatch(content)
    return (content if text is None else text[1]).strip().strip("$").strip()


@lru_cache(maxsize=_REMEMBERED)
def _checked(kind: str, gold: str, content: str) -> bool:
    if kind == "reasoning_gym":
        return check(kind, {**json.loads(gold), "content": content})
    return check(kind, {"gold": gold, "content": content})
