"""Masks against stable sorts of a dense reconstruction, and the Jaccard index of independent masks."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from spectra.linalg.decompositions.basis import decompose
from spectra.linalg.measures import masks
from tests.builders import matrix, randn
from tests.oracles_coordinates import first_of
from tests.oracles_coordinates import masks as dense_masks

SHAPES = [(30, 30), (24, 50), (50, 24)]


@pytest.mark.parametrize("condition", [10.0, 1e8])
@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("shape", SHAPES)
def test_masks_of_a_dense_svd(shape: tuple[int, int], fraction: float, condition: float) -> None:
    weight = matrix(*shape, condition=condition)
    expected = dense_masks(weight.numpy(), fraction)
    principal = masks.principal_mask(weight, decompose(weight), fraction, fraction)
    low = masks.low_magnitude_mask(weight, fraction)
    assert np.array_equal(principal, expected["principal"])
    assert np.array_equal(low, expected["low_magnitude"])
    assert int(principal.sum()) == int(low.sum()) == round(fraction * weight.numel())


@pytest.mark.parametrize("fraction", [0.1, 0.33, 1.0])
def test_of_equal_entries_the_first_are_taken(fraction: float) -> None:
    weight = (4 * randn(20, 17)).round()
    expected = first_of(weight.abs().numpy(), round(fraction * weight.numel()))
    assert np.array_equal(masks.low_magnitude_mask(weight, fraction), expected)


def test_masks_of_a_transposed_view() -> None:
    weight = randn(20, 17)
    kept = weight.clone()
    turned = masks.low_magnitude_mask(weight.T)
    assert torch.equal(turned, masks.low_magnitude_mask(weight.T.contiguous()))
    assert torch.equal(weight, kept)


def test_masks_of_zero_and_of_too_few_entries() -> None:
    zero = torch.zeros(4, 5, dtype=torch.float64)
    first = [True, True] + [False] * 18
    assert masks.low_magnitude_mask(zero).flatten().tolist() == first
    assert masks.principal_mask(zero, decompose(zero)).flatten().tolist() == first
    assert not masks.low_magnitude_mask(randn(2, 2)).any()


def random_masks(seed: int, *densities: float, shape: tuple[int, int] = (30, 40)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(*shape, generator=generator) < density for density in densities]


def test_how_masks_meet() -> None:
    mask, visible = random_masks(0, 0.1, 0.3)
    m, v = mask.numpy(), visible.numpy()
    assert masks.density(mask) == m.mean()
    assert masks.visible_overlap(mask, visible) == (m & v).sum() / v.sum()
    assert masks.coverage(mask, visible) == (m & v).sum() / m.sum()
    assert masks.enrichment(mask, visible) == pytest.approx((m & v).sum() / v.sum() / m.mean())
    assert masks.jaccard(mask, visible) == (m & v).sum() / (m | v).sum()
    assert masks.jaccard(mask, mask) == 1


def test_empty_masks_are_undefined_and_not_zero() -> None:
    mask, empty = random_masks(0, 0.1, 0.0)
    assert math.isnan(masks.visible_overlap(mask, empty))
    assert math.isnan(masks.coverage(empty, mask))
    assert math.isnan(masks.enrichment(empty, mask))
    assert math.isnan(masks.jaccard(empty, empty))
    assert math.isnan(masks.expected_jaccard(0.0, 0.0, 100).mean)
    assert masks.jaccard(mask, empty) == 0


@pytest.mark.parametrize(("first", "second"), [(0.1, 0.1), (0.05, 0.5), (0.6, 0.7)])
def test_jaccard_of_independent_masks(first: float, second: float) -> None:
    entries, draws = 1000, 4000
    generator = torch.Generator().manual_seed(3)
    orders = torch.rand(draws, entries, generator=generator).argsort(1)
    a = torch.arange(entries) < first * entries
    b = orders < second * entries  # as many in every draw
    found = (a & b).sum(1) / (a | b).sum(1)
    null = masks.expected_jaccard(first, second, entries)
    assert null.mean == pytest.approx(first * second / (first + second - first * second))
    # The mean is right to first order in 1/n, the standard deviation in its square root.
    assert abs(float(found.mean()) - null.mean) < 4 * null.sd / math.sqrt(draws) + 1 / entries
    assert float(found.std()) == pytest.approx(null.sd, rel=0.05)
