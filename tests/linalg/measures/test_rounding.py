"""Rounding to half precision against exact integers, and the chance of crossing a rounding boundary."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from spectra.linalg.measures.rounding import (
    boundary_distances,
    flipped_visibility,
    gaussian_visibility,
    round_to,
    rounding_norm,
    ulp,
)
from tests.builders import randn
from tests.oracles_coordinates import interval, round_exactly

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def hard_values(dtype: torch.dtype) -> list[float]:
    """Return numbers of the format, the midpoints between them, and their float64 neighbours, over all exponents."""
    steps = torch.arange(0, 1 << 15, 251, dtype=torch.int32).to(torch.int16)
    here = steps.view(dtype).double()
    there = (steps + 1).view(dtype).double()
    whole = torch.isfinite(here) & torch.isfinite(there)
    here, there = here[whole], there[whole]
    middle = (here + there) / 2
    far = torch.full_like(here, math.inf)
    return torch.cat([here, middle, middle.nextafter(far), middle.nextafter(-far), here.nextafter(far)]).tolist()


@pytest.mark.parametrize("format", DTYPES)
def test_rounding_is_exact_on_ties_and_beside_them(format: str) -> None:
    top = torch.finfo(DTYPES[format]).max
    unit = top - float(torch.tensor(top, dtype=DTYPES[format]).view(torch.int16).sub(1).view(DTYPES[format]))
    edge = [top, top + unit / 2, math.nextafter(top + unit / 2, 0), top + unit, 1e300, math.inf, 0.0, 5e-324]
    values = [*hard_values(DTYPES[format]), *edge]
    values += [-value for value in values]
    expected = [round_exactly(value, format) for value in values]
    assert round_to(numbers(*values), DTYPES[format]).tolist() == expected


@given(value=st.floats(allow_nan=False, width=64), format=st.sampled_from(sorted(DTYPES)))
def test_rounding_is_exact_anywhere(value: float, format: str) -> None:
    assert round_to(numbers(value), DTYPES[format]).item() == round_exactly(value, format)


def test_torch_rounds_twice() -> None:
    just_over_a_tie = 1 + 2.0**-8 + 2.0**-40
    assert numbers(just_over_a_tie).to(torch.bfloat16).item() == 1
    assert round_to(numbers(just_over_a_tie)).item() == round_exactly(just_over_a_tie) == 1 + 2.0**-7


def test_rounding_leaves_what_it_is_given_alone() -> None:
    values = randn(5, 7).T
    kept = values.clone()
    assert round_to(values).shape == (7, 5)
    assert torch.equal(values, kept)


def test_rounding_to_a_format_that_is_not_narrower_is_refused() -> None:
    with pytest.raises(ValueError, match="float64 does not round"):
        round_to(numbers(1.0), torch.float64)


@pytest.mark.parametrize("format", DTYPES)
def test_ulp_is_the_distance_to_the_next_number(format: str) -> None:
    dtype = DTYPES[format]
    bits = torch.arange(0, 1 << 15, 17, dtype=torch.int32).to(torch.int16)
    here, there = bits.view(dtype).double(), (bits + 1).view(dtype).double()
    both = torch.isfinite(here) & torch.isfinite(there)
    assert torch.equal(ulp(here[both], dtype), (there - here)[both])
    assert torch.equal(ulp(-here[both] - (there - here)[both] / 4, dtype), (there - here)[both])
    assert ulp(numbers(torch.finfo(dtype).max, 1e300, math.inf), dtype).tolist()[1:] == [math.inf, math.inf]


@pytest.mark.parametrize("format", DTYPES)
@pytest.mark.parametrize("kind", ["gaussian", "log-uniform", "uniform"])
def test_rounding_norm_is_what_rounding_does(kind: str, format: str) -> None:
    values = {
        "gaussian": 0.02 * randn(400, 500),
        "log-uniform": 10 ** (-4 * torch.rand(400, 500, generator=torch.Generator().manual_seed(1)).double()),
        "uniform": torch.rand(400, 500, generator=torch.Generator().manual_seed(2)).double(),
    }[kind]
    measured = float(torch.linalg.vector_norm(round_to(values, DTYPES[format]) - values))
    # The squared error of one entry has mean ulp²/12 and standard deviation ulp²/√180.
    spread = float((ulp(values, DTYPES[format]) ** 4 / 180).sum()) ** 0.5 / (2 * measured)
    assert abs(measured - rounding_norm(values, DTYPES[format])) < 4 * spread
    assert spread < 0.004 * measured


def test_rounding_norm_of_nothing_and_of_what_does_not_fit() -> None:
    assert rounding_norm(numbers()) == 0
    assert rounding_norm(numbers(7e4), torch.float16) == math.inf
    assert rounding_norm(torch.zeros(3, 3, dtype=torch.float64)) < 1e-39


def test_boundaries_are_exact() -> None:
    values = [value for value in hard_values(torch.bfloat16) if not math.isinf(round_exactly(value))]
    values += [0.0, 2.0**-134, 2.0**-126, 2.0**-126 * (1 - 2.0**-9), torch.finfo(torch.bfloat16).max]
    values += [-value for value in values]
    below, above = boundary_distances(numbers(*values))
    for value, down, up in zip(values, below.tolist(), above.tolist(), strict=True):
        low, high = interval(value)
        exact = 1 if abs(value) < 2.0**-125 else 0  # the ends of the subnormal ones need more than 53 bits
        assert abs(Fraction(down) - (Fraction(value) - low)) <= exact * 2.0**-52 * Fraction(down)
        assert abs(Fraction(up) - (high - Fraction(value))) <= exact * 2.0**-52 * Fraction(up)


def test_boundaries_beyond_the_largest_number() -> None:
    top, unit = torch.finfo(torch.bfloat16).max, 2.0**120
    below, above = boundary_distances(numbers(top + unit, -top - unit, 1.0))
    assert below.tolist() == [unit / 2, math.inf, 2.0**-9]
    assert above.tolist() == [math.inf, unit / 2, 2.0**-8]


def test_noise_crosses_a_boundary_as_often_as_the_normal_law_says() -> None:
    below, above = boundary_distances(0.05 * randn(40))
    for sd in (1e-6, 1e-4, 1e-2):
        p, slope = gaussian_visibility(below, above, sd)
        expected = stats.norm.sf(below / sd) + stats.norm.sf(above / sd)
        np.testing.assert_allclose(p, expected, rtol=1e-12, atol=1e-300)
        more, less = (gaussian_visibility(below, above, sd * factor)[0] for factor in (1 + 1e-5, 1 - 1e-5))
        np.testing.assert_allclose(slope, (more - less) / 2e-5, rtol=1e-6, atol=1e-9)


def test_noise_at_an_infinite_boundary() -> None:
    p, slope = gaussian_visibility(numbers(math.inf, 0.0), numbers(math.inf, math.inf), 1.0)
    assert p.tolist() == [0.0, 0.5]
    assert slope.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("sizes", [3e-4, "own"])
def test_sign_flips_count_both_signs(sizes: float | str) -> None:
    values = 0.05 * randn(300)
    size = torch.full((300,), 3e-4, dtype=torch.float64) if sizes != "own" else 1e-3 * randn(300, seed=1)
    expected = [
        np.mean([round_exactly(w + sign * abs(d)) != round_exactly(w) for sign in (1, -1)])
        for w, d in zip(values.tolist(), size.tolist(), strict=True)
    ]
    found = flipped_visibility(values, size if sizes == "own" else 3e-4).tolist()
    assert found == expected
    assert set(found) == {0.0, 0.5, 1.0}


def test_sizes_on_a_boundary_follow_ties_to_even() -> None:
    # 1 has even bits and keeps its ties, the next number has odd ones and gives them away.
    assert flipped_visibility(numbers(1.0), 2.0**-8).item() == 0.5  # below 1 the interval is half as wide
    assert flipped_visibility(numbers(1 + 2.0**-7), 2.0**-8).item() == 1.0
