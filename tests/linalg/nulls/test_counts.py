"""Nulls of counts and ratios against simulation."""

import math

import pytest
import torch
from torch import Tensor

from spectra.linalg.measures.rounding import boundary_distances, flipped_visibility, gaussian_visibility, round_to
from spectra.linalg.nulls.counts import CountNull, JaccardNull, ratio_null
from spectra.linalg.nulls.haar_moments import Null
from tests.builders import randn

DRAWS = 4000
WEIGHT = 0.05 * randn(768)
GROUPS = (WEIGHT.abs().argsort().argsort() < 150).long()  # 1 for the small ones
MEMBERS = torch.tensor([0.0, 1.0], dtype=torch.float64)


def agrees(samples: Tensor, null: Null) -> None:
    """Assert mean and standard deviation within four and five standard errors."""
    assert abs(float(samples.mean()) - null.mean) < 4 * null.sd / math.sqrt(len(samples))
    assert abs(float(samples.std()) / null.sd - 1) < 5 / math.sqrt(2 * len(samples))


def sums(*parts: Tensor) -> list[Tensor]:
    return [torch.bincount(GROUPS, weights=part) for part in parts]


def visible(noise: Tensor) -> Tensor:
    return round_to(WEIGHT + noise) != round_to(WEIGHT)


def test_independent_noise() -> None:
    sd = 1e-4
    p, _ = gaussian_visibility(*boundary_distances(WEIGHT), sd)
    null = CountNull.of(*sums(torch.ones_like(p), p, p * (1 - p)))
    moved = visible(sd * randn(DRAWS, len(WEIGHT), seed=1))
    agrees(1 - moved.double().mean(1), null.unchanged())
    agrees(moved[:, GROUPS == 1].sum(1) / moved.sum(1), null.overlap(MEMBERS))


@pytest.mark.parametrize("sd", [3e-5, 1e-4, 1e-3])
def test_noise_of_fixed_norm(sd: float) -> None:
    p, slope = gaussian_visibility(*boundary_distances(WEIGHT), sd)
    null = CountNull.of(*sums(torch.ones_like(p), p, p * (1 - p), slope))
    noise = randn(DRAWS, len(WEIGHT), seed=2)
    noise *= sd * math.sqrt(len(WEIGHT)) / torch.linalg.vector_norm(noise, dim=1, keepdim=True)
    moved = visible(noise)
    agrees(1 - moved.double().mean(1), null.unchanged())
    agrees(moved[:, GROUPS == 1].sum(1) / moved.sum(1), null.overlap(MEMBERS))


def test_a_fixed_norm_has_less_spread() -> None:
    p, slope = gaussian_visibility(*boundary_distances(WEIGHT), 1e-4)
    free = CountNull.of(*sums(torch.ones_like(p), p, p * (1 - p)))
    fixed = CountNull.of(*sums(torch.ones_like(p), p, p * (1 - p), slope))
    assert 0.8 < fixed.unchanged().sd / free.unchanged().sd < 0.98


@pytest.mark.parametrize("kind", ["own sizes", "one size"])
def test_sign_flips(kind: str) -> None:
    sizes = 3e-4 * randn(len(WEIGHT), seed=3) if kind == "own sizes" else torch.full_like(WEIGHT, 1.5e-4)
    p = flipped_visibility(WEIGHT, sizes)
    null = CountNull.of(*sums(torch.ones_like(p), p, p * (1 - p)))
    moved = visible(sizes * randn(DRAWS, len(WEIGHT), seed=4).sign())
    agrees(1 - moved.double().mean(1), null.unchanged())
    agrees(moved[:, GROUPS == 1].sum(1) / moved.sum(1), null.overlap(MEMBERS))


@pytest.mark.parametrize("fixed", [False, True])
def test_jaccard_of_two_independent_updates(fixed: bool) -> None:
    first, second = (gaussian_visibility(*boundary_distances(WEIGHT), sd) for sd in (1e-4, 2e-4))
    noises = [sd * randn(DRAWS, len(WEIGHT), seed=seed) for seed, sd in ((5, 1e-4), (6, 2e-4))]
    if fixed:
        for noise, sd in zip(noises, (1e-4, 2e-4), strict=True):
            noise *= sd * math.sqrt(len(WEIGHT)) / torch.linalg.vector_norm(noise, dim=1, keepdim=True)
    else:  # without slopes nothing is taken out
        first, second = (first[0], torch.zeros_like(WEIGHT)), (second[0], torch.zeros_like(WEIGHT))
    meeting = JaccardNull(len(WEIGHT))
    meeting.add(first, second)
    a, b = (visible(noise) for noise in noises)
    agrees((a & b).sum(1) / (a | b).sum(1), meeting.jaccard())


def test_equal_entries_may_be_counted_once() -> None:
    p = gaussian_visibility(*boundary_distances(WEIGHT[:5]), 1e-4)
    counts = torch.tensor([3.0, 1.0, 2.0, 5.0, 1.0], dtype=torch.float64)
    once, each = JaccardNull(12), JaccardNull(12)
    once.add(p, p, counts)
    repeated = (p[0].repeat_interleave(counts.long()), p[1].repeat_interleave(counts.long()))
    each.add(repeated, repeated)
    assert once.jaccard().mean == pytest.approx(each.jaccard().mean, rel=1e-12)
    assert once.jaccard().sd == pytest.approx(each.jaccard().sd, rel=1e-12)


def test_few_expected_have_no_z() -> None:
    def null(inside: float, outside: float) -> CountNull:
        sizes, mean = (torch.tensor(pair, dtype=torch.float64) for pair in ((100.0, 100.0), (outside, inside)))
        return CountNull.of(sizes, mean, mean * (1 - mean / 100))

    assert math.isnan(null(1, 1).unchanged_z(0.9))
    assert math.isnan(null(99, 99).unchanged_z(0.0))
    assert math.isfinite(null(3, 60).unchanged_z(0.7))
    assert math.isnan(null(3, 60).overlap_z(MEMBERS, 0.1))
    assert math.isfinite(null(20, 60).overlap_z(MEMBERS, 0.1))


def test_a_ratio_to_nothing_is_undefined() -> None:
    null = ratio_null(torch.zeros(2, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64))
    assert math.isnan(null.mean)
    assert math.isnan(null.sd)
