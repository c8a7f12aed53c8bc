"""How a report writes numbers, verdicts and text cells."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import pandas as pd
from markupsafe import Markup, escape

Tone = Literal["good", "idle", "warn", "bad"]

_TONES: dict[str, Tone] = {
    "healthy": "good",
    "not_learning": "idle",
    # Faults of bookkeeping: the weights may be fine.
    "wrong_base": "warn",
    "merge_drift": "warn",
}
_SIGNS: dict[Tone, str] = {"good": "✓", "idle": "○", "warn": "!", "bad": "✕"}
_STATUS_TONES: dict[str, Tone] = {"fault": "bad", "note": "warn", "skipped": "idle", "ok": "good"}
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_ESCAPED = str.maketrans({char: f"\\{char}" for char in "\\`*_{}[]<>|#"})

MISSING = "–"


def tone(verdict: str) -> Tone:
    """Return how a verdict is colored; an unknown one is as serious as a collapse."""
    return _TONES.get(verdict, "bad")


def sign(verdict: str) -> str:
    """Return the mark that stands beside the color, for readers who cannot tell the colors apart."""
    return _SIGNS[tone(verdict)]


def status_tone(status: str) -> Tone:
    """Return how the result of a bookkeeping check is colored."""
    return _STATUS_TONES.get(status, "idle")


def status_sign(status: str) -> str:
    """Return the mark that stands beside the result of a check."""
    return {"ok": "✓", "note": "!", "fault": "✕"}.get(status, "○")


def breakable(name: str) -> Markup:
    """Return a name as HTML that may break after a slash or an underscore: a long path fits a narrow column.

    >>> breakable("runs/<a>")
    Markup('runs/<wbr>&lt;a&gt;')
    """
    return Markup(re.sub(r"(?<=[/_])", "<wbr>", str(escape(name))))


def sort_checks(checks: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return bookkeeping checks with the gravest first."""
    order = [*_STATUS_TONES]
    return sorted(checks, key=lambda check: order.index(check["status"]) if check["status"] in order else len(order))


def words(name: str) -> str:
    """Write a verdict or a column as words.

    >>> words("reward_collapsed")
    'reward collapsed'
    """
    return name.replace("_", " ")


def number(value: Any) -> str:
    """Write a value of a table: three significant digits, whole numbers in full, a dash where there is none.

    >>> number(0.00021), number(1.0349), number(2814000), number(None), number("base run")
    ('2.1×10⁻⁴', '1.03', '2,814,000', '–', 'base run')
    """
    if isinstance(value, str):
        return value
    if value is None or value is pd.NA or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return _finite(float(value)).replace("-", "−")


def share(value: Any) -> str:
    """Write a share as a percentage with three significant digits, a dash where there is none.

    >>> share(0.0155), share(1.0), share(0.00012), share(None)
    ('1.55 %', '100 %', '0.012 %', '–')
    """
    written = number(value if isinstance(value, str) or value is None else 100 * value)
    return written if written == MISSING or isinstance(value, str) else f"{written} %"


def lift(value: Any, z: Any) -> str:
    """Write a lift beside its z.

    >>> lift(1.034, 0.41), lift(None, None)
    ('1.03 (z 0.41)', '–')
    """
    written = number(value)
    return written if written == MISSING else f"{written} (z {number(z)})"


def markdown(value: Any) -> str:
    r"""Escape a value for a cell of a Markdown table: no name can open a link, a tag or a new column.

    >>> print(markdown("a|b <i>"))
    a\|b \<i\>
    """
    return " ".join(str(value).split()).translate(_ESCAPED)


def _finite(value: float) -> str:
    size = abs(value)
    if value == int(value) and size < 1e12:
        return f"{int(value):,}"
    if 1e-3 <= size < 1e3:
        return f"{value:.3g}"
    if 1e3 <= size < 1e6:
        return f"{value:,.0f}"
    digits, _, exponent = f"{value:.2e}".partition("e")
    return f"{digits.rstrip('0').rstrip('.')}×10{str(int(exponent)).translate(_SUPERSCRIPT)}"
