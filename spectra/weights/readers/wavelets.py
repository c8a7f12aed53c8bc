"""One-level wavelet synthesis as WaveFT uses it: Daubechies filters, padding and the layout of the sub-bands."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spectra.errors import UnsupportedMethodError

_MOST_MOMENTS = 10


def low_pass(name: str, where: Path) -> Tensor:
    """Return the low-pass synthesis filter of a Daubechies wavelet, 2N taps for N vanishing moments.

    It is the minimal-phase square root of the maximally flat half-band filter: N zeros at −1, and of each reciprocal
    pair of the other zeros the one inside the unit circle (Daubechies 1988).

    Raises
    ------
    UnsupportedMethodError
        For other wavelet families, whose filters come from tables, not from a formula.
    """
    moments = int(name[2:]) if name.startswith("db") and name[2:].isdigit() else 0
    if not 1 <= moments <= _MOST_MOMENTS:
        raise UnsupportedMethodError(
            f"its wavelet {name!r} is not read exactly (db1 to db{_MOST_MOMENTS} are)",
            where=where,
            hint="merge it in float32 and analyze the full checkpoint with --base",
        )
    half_band = [math.comb(moments - 1 + k, k) for k in range(moments)]
    # With y = (2 − z − 1/z)/4, each zero y gives the pair z, 1/z of z² − (2 − 4y)z + 1.
    middle = 1 - 2 * np.roots(half_band[::-1]).astype(complex)
    pairs = np.stack([middle + np.sqrt(middle**2 - 1), middle - np.sqrt(middle**2 - 1)])
    inside = pairs[np.abs(pairs).argmin(axis=0), np.arange(len(middle))]
    taps = np.poly(np.concatenate([np.full(moments, -1.0), inside])).real
    return torch.from_numpy(taps * math.sqrt(2) / taps.sum())


def padded(size: int, filter_taps: Tensor) -> int:
    """Return the number of coefficients of a signal: boundary effects included, and even."""
    length = size + len(filter_taps) - 2
    return length + length % 2


def subbands(rows: Tensor, columns: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Convert positions in peft's layout of the four sub-bands to positions by filter (low-pass first).

    peft puts the sub-band that is low-pass across and high-pass down at the top right, and the opposite one at the
    bottom left: these two are exchanged.
    """
    top, left = rows < height // 2, columns < width // 2
    shift = top.int() * (~left).int() - (~top).int() * left.int()
    return rows + shift * (height // 2), columns - shift * (width // 2)


def synthesis(coefficients: Tensor, length: int, filter_taps: Tensor) -> Tensor:
    """Return the signals of single coefficients, length × P: column p is the signal of coefficient p alone.

    Coefficients n below half give the low-pass filter shifted by 2n, the others its mirror, the high-pass filter.
    """
    taps = filter_taps.to(coefficients.device)
    signs = torch.ones_like(taps)
    signs[1::2] = -1
    half = padded(length, filter_taps) // 2
    is_low = coefficients < half
    start = 2 * torch.where(is_low, coefficients, coefficients - half) - (len(taps) - 2)
    at = start[None, :] + torch.arange(len(taps), device=taps.device)[:, None]
    values = torch.where(is_low, taps[:, None], (signs * taps.flip(0))[:, None])
    seen = (at >= 0) & (at < length)
    signals = taps.new_zeros(length, len(coefficients))
    column = torch.arange(len(coefficients), device=taps.device).expand_as(at)
    return signals.index_put((at[seen], column[seen]), values[seen])
