"""Which entries of a weight change when it is stored in half precision, and which would change by chance.

A trained weight W + ΔW is stored in bfloat16, so an entry moves visibly only if w + Δw leaves the interval of
numbers that round to the same bfloat16 value as w. Small weights have short intervals, so any update, even noise, is
visible first where |W| is small. The probability that independent noise is visible has a closed form in the two
distances to the ends of that interval.

Rounding here is one correct step from float64, to nearest with ties to even. ``Tensor.to(torch.bfloat16)`` rounds twice
(through float32) and is off by one unit if the first step lands on a tie.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

Values = Float64[Tensor, "*shape"]

# Entries per block of a long sum.
_BLOCK = 1 << 18

_MANTISSA = 52  # explicit bits of a float64
_BIAS = 1023  # exponent bias of a float64
# In standard deviations: Φ(−a) and a·φ(a) are zero in float64 long before, and ∞·0 is avoided.
_FARTHEST = 100.0


@dataclass(frozen=True)
class _Grid:
    """A floating-point format: explicit mantissa bits, smallest exponent of a normal number, largest number."""

    mantissa: int
    least_exponent: int
    largest: float

    @classmethod
    def of(cls, dtype: torch.dtype) -> "_Grid":
        info = torch.finfo(dtype)
        mantissa = round(-math.log2(info.eps))
        if mantissa >= _MANTISSA:
            raise ValueError(f"{dtype} does not round float64 values")
        return cls(mantissa, round(math.log2(info.smallest_normal)), info.max)

    @property
    def overflow(self) -> float:
        """The smallest magnitude that rounds to infinity: half a unit beyond the largest number."""
        eps = 2.0**-self.mantissa
        return self.largest + self.largest / (2 - eps) * eps / 2


def round_to(values: Values, dtype: torch.dtype = torch.bfloat16) -> Values:
    """Return float64 values rounded once to ``dtype``, to nearest with ties to even; the result is float64.

    Subnormal numbers are kept. Values half a unit or more beyond the largest number become ±∞.

    Raises
    ------
    ValueError
        If ``dtype`` is not narrower than float64.
    """
    grid = _Grid.of(dtype)
    drop = _MANTISSA - grid.mantissa
    bits = values.view(torch.int64)
    # Adding just under half a unit, or half where the last kept bit is odd, carries exactly when rounding goes up.
    rounded = (((bits >> drop) & 1).add_((1 << (drop - 1)) - 1).add_(bits)) & -(1 << drop)
    result = rounded.view(torch.float64)
    small = values.abs() < 2.0**grid.least_exponent
    if bool(small.any()):
        # Under the normal numbers the unit is fixed: the sum's last place is that unit, so the hardware rounds to it.
        magic = 1.5 * 2.0 ** (grid.least_exponent - grid.mantissa + _MANTISSA)
        result = torch.where(small, (values + magic) - magic, result)
    return torch.where(result.abs() > grid.largest, torch.copysign(_infinite(values), values), result)


def ulp(values: Values, dtype: torch.dtype = torch.bfloat16) -> Values:
    """Return the spacing of the numbers of ``dtype`` at the magnitude of each value.

    At a power of two it is the spacing on the side away from zero; at zero the smallest subnormal number; ∞ if a
    value does not fit.
    """
    grid = _Grid.of(dtype)
    exponent = (((values.view(torch.int64) >> _MANTISSA) & 0x7FF) - _BIAS).clamp_(min=grid.least_exponent)
    unit = (exponent.add_(_BIAS - grid.mantissa) << _MANTISSA).view(torch.float64)
    return torch.where(values.abs() < grid.overflow, unit, _infinite(values))


def rounding_norm(values: Values, dtype: torch.dtype = torch.bfloat16) -> float:
    """Return the expected Frobenius norm of the error of rounding these values to ``dtype``.

    √(Σ ulp²/12), for an error that is uniform over its unit. This holds if the values are not on the grid of ``dtype``
    and differ from it by more than a unit. A value on the grid that an update of less than half a unit does not move
    loses that update instead, a smaller error. ∞ if a value does not fit; 0 for no values.
    """
    flat = values.flatten()
    starts = range(0, len(flat), _BLOCK)
    return math.sqrt(sum(float((ulp(flat[start : start + _BLOCK], dtype) ** 2).sum()) for start in starts) / 12)


def boundary_distances(values: Values) -> tuple[Values, Values]:
    """Return each value's distance to the lower and to the upper end of its rounding interval.

    Exact for normal numbers: both ends have nine bits, and the differences fit in a float64.

    Returns
    -------
    below, above
        w − lo and hi − w, both ≥ 0, where [lo, hi] is the set of numbers that round to the same bfloat16 number as w;
        ∞ for the outer end of ±∞.
    """
    grid = _Grid.of(torch.bfloat16)
    cast = round_to(values)
    if bool(torch.isinf(cast).any()):
        return _distances_beyond(values, cast, grid)
    outer = ulp(cast) / 2
    size = cast.abs()
    # Just under a power of two the numbers are twice as dense, except where the subnormal ones begin.
    power = (cast.view(torch.int64) & ((1 << _MANTISSA) - 1)) == 0
    inner = torch.where(power & (size > 2.0**grid.least_exponent), outer / 2, outer)
    up, down = torch.where(cast >= 0, outer, inner), torch.where(cast >= 0, inner, outer)
    return (values - cast) + down, (cast - values) + up


def _distances_beyond(values: Tensor, cast: Tensor, grid: _Grid) -> tuple[Tensor, Tensor]:
    beyond = torch.isinf(cast)
    below, above = boundary_distances(torch.where(beyond, 0.0, values))
    inward = values.abs() - grid.overflow
    below = torch.where(beyond, torch.where(values > 0, inward, math.inf), below)
    return below, torch.where(beyond, torch.where(values > 0, math.inf, inward), above)


def gaussian_visibility(below: Values, above: Values, sd: float) -> tuple[Values, Values]:
    """Return the probability that Gaussian noise leaves the interval, and its derivative in ln sd.

    Parameters
    ----------
    below, above
        Distances to the ends of the interval.
    sd
        Standard deviation of the noise, positive.

    Returns
    -------
    probability
        P = Φ(−above/sd) + Φ(−below/sd).
    slope
        dP/d ln sd = Σ a·φ(a) over both ends, a the distance in standard deviations. It is also
        Cov(visible, noise²)/sd².
    """
    low, high = (below / sd).clamp_(max=_FARTHEST), (above / sd).clamp_(max=_FARTHEST)
    probability = (torch.erfc(low / math.sqrt(2)) + torch.erfc(high / math.sqrt(2))) / 2
    slope = (low * torch.exp(-(low**2) / 2) + high * torch.exp(-(high**2) / 2)) / math.sqrt(2 * math.pi)
    return probability, slope


def flipped_visibility(values: Values, sizes: Values | float) -> Values:
    """Return the probability that adding ±size, sign random, changes each value's bfloat16 number: 0, ½ or 1."""
    cast = round_to(values)
    up, down = round_to(values + sizes) != cast, round_to(values - sizes) != cast
    return (up.to(torch.float64) + down.to(torch.float64)) / 2


def _infinite(like: Tensor) -> Tensor:
    return torch.full((), math.inf, dtype=torch.float64, device=like.device)
