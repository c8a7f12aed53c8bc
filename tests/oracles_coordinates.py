"""Visible entries, masks and concentration, worked out a second time: exact integers, numpy and scipy only.

Slow on purpose: rounding is integer arithmetic on fractions, masks are stable sorts, Gini coefficients double sums.
"""

import math
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import integrate, stats

Matrix = NDArray[np.float64]
Mask = NDArray[np.bool_]
Row = dict[str, Any]

# Format: significant bits, least exponent of a normal number, greatest exponent.
FORMATS = {"bfloat16": (8, -126, 127), "float16": (11, -14, 15)}


def round_exactly(value: float, format: str = "bfloat16") -> float:
    """Round one float64 to the nearest number of a format, ties to the even one, in integers."""
    if value == 0 or math.isinf(value):
        return value
    bits, least, greatest = FORMATS[format]
    size = abs(Fraction(value))
    exponent = max(_floor_log2(size), least)
    unit = Fraction(2) ** (exponent - bits + 1)
    whole, rest = divmod(size, unit)
    up = rest > unit / 2 or (rest == unit / 2 and whole % 2 == 1)
    rounded = (whole + up) * unit
    if rounded >= Fraction(2) ** (greatest + 1):
        return math.copysign(math.inf, value)
    return math.copysign(float(rounded), value)


def bfloat16(values: Matrix) -> Matrix:
    """Round every entry exactly."""
    rounded: Matrix = np.array([round_exactly(float(value)) for value in values.ravel()]).reshape(values.shape)
    return rounded


def interval(value: float) -> tuple[Fraction, Fraction]:
    """Return the ends of the interval that rounds to the same finite bfloat16 number, from that number's neighbours."""
    here = Fraction(round_exactly(value))
    unit = Fraction(2) ** (max(_floor_log2(abs(here)) if here else -126, -126) - 7)
    below = abs(here) - (unit / 2 if _is_power(abs(here)) and abs(here) > Fraction(2) ** -126 else unit)
    ends = ((below + abs(here)) / 2, abs(here) + unit / 2)
    if here == 0:
        return -unit / 2, unit / 2
    return ends if here > 0 else (-ends[1], -ends[0])


def _floor_log2(size: Fraction) -> int:
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    return exponent if Fraction(2) ** exponent <= size else exponent - 1


def _is_power(size: Fraction) -> bool:
    return size > 0 and Fraction(2) ** _floor_log2(size) == size


def first_of(scores: Matrix, count: int) -> Mask:
    """Return the entries of least score, of equal ones the first in row-major order."""
    mask = np.zeros(scores.size, dtype=bool)
    mask[np.argsort(scores.ravel(), kind="stable")[:count]] = True
    return mask.reshape(scores.shape)


def masks(weight: Matrix, fraction: float = 0.1) -> dict[str, Mask]:
    """Return the three masks, from a dense SVD."""
    u, sigma, vh = np.linalg.svd(weight, full_matrices=False)
    k, count = max(1, round(fraction * len(sigma))), round(fraction * weight.size)
    # The order of entries that tie up to rounding is free, and a continuous matrix has none.
    principal = first_of(-np.abs((u[:, :k] * sigma[:k]) @ vh[:k]), count)
    low = first_of(np.abs(weight), count)
    return {"principal": principal, "low_magnitude": low, "principal_not_low": principal & ~low}


def gini(values: Matrix) -> float:
    """Return the mean absolute difference over twice the mean."""
    return float(np.abs(values[:, None] - values[None]).mean() / (2 * values.mean()))


def expected_gini(count: int, degrees: int) -> float:
    """Return ∫F(1 − F)/mean of the χ² law by quadrature, times the share of pairs that are two different rows."""
    law = stats.chi2(degrees)
    spread, _ = integrate.quad(lambda x: law.cdf(x) * law.sf(x), 0, degrees + 60 * math.sqrt(degrees), limit=500)
    return float(spread / degrees * (count - 1) / count)


def visibility(weight: Matrix, sd: float) -> Matrix:
    """Return the probability that Gaussian noise moves each entry, from the exact intervals."""
    ends = [interval(float(value)) for value in weight.ravel()]
    low = np.array([float(Fraction(value) - end[0]) for value, end in zip(weight.ravel().tolist(), ends, strict=True)])
    high = np.array([float(end[1] - Fraction(value)) for value, end in zip(weight.ravel().tolist(), ends, strict=True)])
    chance: Matrix = (stats.norm.sf(low / sd) + stats.norm.sf(high / sd)).reshape(weight.shape)
    return chance


def row(weight: Matrix, delta: Matrix) -> Row:
    """Return the columns of table ``coordinates`` that need no variance."""
    before, after = bfloat16(weight), bfloat16(weight + delta)
    visible, distance = before != after, np.abs(after - before)
    chance = visibility(weight, float(np.linalg.norm(delta)) / math.sqrt(weight.size))
    out: Row = {
        "unchanged_bf16": 1 - visible.mean(),
        "unchanged_relative": np.mean(distance <= 1e-3 * np.maximum(np.abs(before), np.abs(after))),
        "unchanged_atol": np.mean(distance <= 1e-5),
        "expected_unchanged_bf16": 1 - chance.mean(),
        "row_gini": gini((delta**2).sum(1)),
        "column_gini": gini((delta**2).sum(0)),
        "expected_row_gini": expected_gini(*weight.shape),
        "expected_column_gini": expected_gini(*weight.T.shape),
    }
    for name, mask in masks(weight).items():
        out |= {
            f"density_{name}": mask.mean(),
            f"overlap_{name}": (mask & visible).sum() / visible.sum() if visible.any() else math.nan,
            f"coverage_{name}": (mask & visible).sum() / mask.sum(),
            f"expected_overlap_{name}": chance[mask].sum() / chance.sum(),
        }
        out[f"enrichment_{name}"] = out[f"overlap_{name}"] / out[f"density_{name}"]
    return out
