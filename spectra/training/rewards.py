r"""The verifiable reward: the answer in ``\boxed{}``, compared as mathematics by math-verify.

Which box counts: the last ``\boxed{`` of a completion, and it must be closed. math-verify alone decides otherwise: it
joins neighbouring boxes into one set, so ``\boxed{52} \boxed{62}`` is {52, 62} to it, and it reads numbers outside any
box. Here the box is cut out first and math-verify sees nothing else.
"""

import logging
import re
import threading
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from importlib import import_module
from typing import Any

from spectra.errors import MissingDependencyError

Message = Mapping[str, Any]

BOX = r"\boxed{"
# Threads have no timeout, and what sympy evaluates in C has none anywhere: these bounds keep every check short.
MAX_CHARACTERS = 256
MAX_NESTING = 8  # the parser's time grows exponentially with the depth
MAX_OPERATORS = 16  # likewise with a chain of powers or bars
MAX_NUMBER = 1000  # exponents, and arguments of factorials
MAX_EXPANSION = 16  # exponents of sums with variables in them
UNFINISHED = ("Sum", "Product", "Integral", "Derivative", "Limit")
COMBINATORIAL = ("factorial", "factorial2", "subfactorial", "binomial")
TIMEOUT_SECONDS = 2

# math-verify's parser keeps tables that are filled as it reads.
_LOCK = threading.Lock()
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace is a character of the answer
_BRACKET = re.compile(r"[{}()\[\]]")
# The parser evaluates these as it reads, before anything can look at how large the numbers are.
_EAGER = re.compile(r"binom|choose|gcd|lcm|det|mod")
_LARGE = re.compile(r"\^|!|\d{5}")


def boxed_answer_reward(
    completions: Sequence[str | Sequence[Message]], answer: Sequence[str], **kwargs: Any
) -> list[float]:
    r"""Return 1.0 for each completion whose last box holds its gold answer, else 0.0: TRL's reward signature.

    Parameters
    ----------
    completions
        One text each, or one list of chat messages each, of which the last one's content counts.
    answer
        Gold answers, one a completion, with or without ``\boxed{}`` around them.
    **kwargs
        Further dataset columns, which TRL passes to every reward; not used.

    Returns
    -------
    list of float
        1.0 or 0.0 a completion. No box, an empty box and an unclosed last box are 0.0, and so is a sum or product of
        numbers that was not carried out where the gold answer is a number: ``27+35`` restates the problem.
    """
    return [
        float(is_correct(_text(completion), str(gold))) for completion, gold in zip(completions, answer, strict=True)
    ]


@lru_cache(maxsize=65536)
def is_correct(completion: str, gold: str) -> bool:
    r"""Return whether the last box of ``completion`` holds ``gold``. Never raises on a malformed completion.

    A gold answer that math-verify cannot parse is compared as text.

    >>> is_correct(r"so \boxed{\frac{124}{2}}", "62"), is_correct(r"\boxed{62} or \boxed{", "62")
    (True, False)
    """
    content = last_box(completion)
    if content is None or not content.strip():
        return False
    expected = _bare(gold)
    return content.strip() == expected or (_readable(content) and _equal(expected, content))


def last_box(text: str) -> str | None:
    r"""Return what stands in the last ``\boxed{…}``, or None where there is none or it is not closed.

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


def _bare(gold: str) -> str:
    boxed = last_box(gold)
    return (gold if boxed is None else boxed).strip().strip("$").strip()


def _equal(expected: str, content: str) -> bool:
    """Compare two box contents as mathematics; False where the gold answer is not mathematics."""
    verifier = _verifier()
    # math-verify times out by a signal, which only the main thread may set.
    timeout = TIMEOUT_SECONDS if threading.current_thread() is threading.main_thread() else None
    with _LOCK:
        gold, predicted = (
            verifier.parse(BOX + text + "}", parsing_timeout=timeout, fallback_mode="no_fallback")
            for text in (expected, content)
        )
        if not gold or not predicted:
            return False
        try:
            answered = _is_answer(predicted[0], gold[0])
        except Exception:  # sympy raises many kinds on malformed mathematics, and training must go on
            return False
        return answered and bool(verifier.verify(gold, predicted, timeout_seconds=timeout))


def _readable(content: str) -> bool:
    """Whether the parser is quick on the text."""
    depth = deepest = 0
    for bracket in _BRACKET.findall(content):
        depth += 1 if bracket in "{([" else -1
        deepest = max(deepest, depth)
    chained = max(content.count("^"), content.count("|"))
    eager = _EAGER.search(content) and _LARGE.search(content)
    return len(content) <= MAX_CHARACTERS and deepest <= MAX_NESTING and chained <= MAX_OPERATORS and not eager


@cache
def _verifier() -> Any:
    try:
        import math_verify
    except ImportError as error:
        raise MissingDependencyError(
            "the verifiable reward needs math-verify", cure="pip install 'spectra-rlvr[train]'"
        ) from error
    # It warns once a process that threads have no timeout, which the guards here make up for.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    return math_verify


@cache
def _sympy() -> Any:
    # Comes with math-verify, and takes half a second to import.
    return import_module("sympy")


def _is_answer(predicted: Any, gold: Any) -> bool:
    """Whether the parsed prediction is quick to evaluate, and finished where the gold answer is a number."""
    sympy = _sympy()
    # math-verify compares the last side of a = b = 62 with the gold answer 62.
    value = predicted.args[-1] if isinstance(predicted, sympy.And) else predicted
    value = value.rhs if isinstance(value, sympy.Eq) else value
    nodes = list(sympy.preorder_traversal(value))
    if not all(map(_tractable, nodes)):
        return False
    if not isinstance(gold, sympy.Number) or isinstance(value, sympy.Symbol):  # \\text{62} is a symbol named 62
        return True
    return not value.free_symbols and not any(map(_left_to_do, nodes))


def _tractable(node: Any) -> bool:
    sympy = _sympy()
    kind = type(node).__name__
    if isinstance(node, sympy.Pow):
        limit = MAX_EXPANSION if isinstance(node.base, sympy.Add) and node.free_symbols else MAX_NUMBER
        return _bounded(node.exp, limit)
    if kind in COMBINATORIAL:
        return all(_bounded(part, MAX_NUMBER) for part in node.args)
    return kind not in UNFINISHED


def _bounded(value: Any, limit: int) -> bool:
    return not value.is_number or bool(value.is_Number and abs(value) <= limit)


def _left_to_do(node: Any) -> bool:
    """Whether the node is a sum of numbers or a product of integers; 2·10³ and -(62) are neither."""
    sympy = _sympy()
    if isinstance(node, sympy.Mul):
        return bool(sum(isinstance(factor, sympy.Integer) and factor != -1 for factor in node.args) > 1)
    return isinstance(node, sympy.Add) and bool(node.is_number)
