r"""Compare two answers as mathematics, inside the processes of ``spectra.training.rewards.sandbox``.

math-verify evaluates while it parses and has no bound on memory. The guards here reject text that is known to keep it
busy, so that equal answers earn equal rewards on every machine. Whatever they miss ends with the process.
"""

import logging
import re
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

BOX = r"\boxed{"
MAX_CHARACTERS = 256
MAX_NESTING = 8  # the parser's time grows exponentially with the depth
MAX_OPERATORS = 16  # likewise with a chain of powers or bars
MAX_NUMBER = 1000  # exponents, and arguments of factorials
MAX_EXPANSION = 16  # exponents of sums with variables in them
UNFINISHED = ("Sum", "Product", "Integral", "Derivative", "Limit")
COMBINATORIAL = ("factorial", "factorial2", "subfactorial", "binomial")

_BRACKET = re.compile(r"[{}()\[\]]")
# The parser evaluates these while it parses, before the size of the numbers can be checked.
_EAGER = re.compile(r"binom|choose|gcd|lcm|det|mod")
_LARGE = re.compile(r"\^|!|\d{5}")

_REWRITES: list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [
    (re.compile(r"(?<=\d)\\[,;!](?=\d{3}(?!\d))"), ""),  # a thin space between thousands
    (re.compile(r"√\s*(\w+|\{[^{}]*\})"), lambda root: rf"\sqrt{{{root[1].strip('{}')}}}"),
    (re.compile(r"√\s*\(([^()]*)\)"), r"\\sqrt{\1}"),
    (re.compile(r"\\degree\b|°"), r"^{\\circ}"),
    (re.compile(r"\\varnothing\b"), r"\\emptyset"),
    (re.compile(r"(?<=[\w})%])\.\s*$"), ""),  # a full stop
    # 4.5e33 as programs and columns of floats write it, where it is the whole answer
    (re.compile(r"^\s*([+−-]?(?:\d+\.?\d*|\.\d+))[eE]\+?([−-]?\d{1,3})\s*$"), r"\1\\times 10^{\2}"),
]
_SIGNS = str.maketrans(
    {"−": "-", "×": r"\times ", "·": r"\cdot ", "÷": "/", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∞": r"\infty "}
    | {"∅": r"\emptyset ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "±": r"\pm ", "π": r"\pi "}
    | dict.fromkeys("£€¥", "")
)


def readable(content: str) -> bool:
    """Return whether a text is short and simple enough to be parsed quickly."""
    depth = deepest = 0
    for bracket in _BRACKET.findall(content):
        depth += 1 if bracket in "{([" else -1
        deepest = max(deepest, depth)
    chained = max(content.count("^"), content.count("|"))
    eager = _EAGER.search(content) and _LARGE.search(content)
    return len(content) <= MAX_CHARACTERS and deepest <= MAX_NESTING and chained <= MAX_OPERATORS and not eager


def plain(text: str) -> str:
    r"""Return the text in notation that the parser accepts.

    >>> plain("62°."), plain(r"1\,000"), plain("√2"), plain("x ≤ −1"), plain("£5"), plain("4.5e+33")
    ('62^{\\circ}', '1000', '\\sqrt{2}', 'x \\le  -1', '5', '4.5\\times 10^{33}')
    """
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    return text.translate(_SIGNS).strip()


def equal(expected: str, content: str) -> bool:
    """Compare two box contents as mathematics; False where the gold answer is not mathematics.

    It sets no limit on time or memory: the calling process has limits.
    """
    verifier = _math_verify()
    gold, predicted = (
        verifier.parse(BOX + plain(text) + "}", parsing_timeout=None, fallback_mode="no_fallback")
        for text in (expected, content)
    )
    if not gold or not predicted:
        return False
    try:
        answered = _is_answer(predicted[0], gold[0])
    except Exception:  # sympy raises many kinds on malformed mathematics, and training must continue
        return False
    return answered and bool(verifier.verify(gold, predicted, timeout_seconds=None))


@cache
def _math_verify() -> Any:
    # It warns once per process that it has no timeout.
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    return import_module("math_verify")


@cache
def _sympy() -> Any:
    return import_module("sympy")


def _is_answer(predicted: Any, gold: Any) -> bool:
    """Whether the parsed prediction is quick to evaluate, and fully evaluated where the gold answer is a number."""
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
