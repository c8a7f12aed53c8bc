"""Energy shares against the dense oracle, on well- and ill-conditioned bases, and their invariances."""

import numpy as np
import pytest
import torch

from spectra.linalg.decompositions.basis import decompose
from spectra.linalg.measures.alignment import align, bin_edges, binned
from spectra.linalg.operators.basic import Dense, LowRank, Operator
from tests import oracles_nulls
from tests.builders import matrix, randn

SHAPES = [(16, 16), (16, 33), (33, 16)]


def update(kind: str, shape: tuple[int, int]) -> Operator:
    if kind == "dense":
        return Dense(randn(*shape, seed=4))
    return LowRank(randn(shape[0], 3, seed=5), randn(3, shape[1], seed=6), 0.1)


@pytest.mark.parametrize("condition", [10.0, 1e4, 1e8])
@pytest.mark.parametrize("kind", ["dense", "low rank"])
@pytest.mark.parametrize("shape", SHAPES)
def test_profiles_and_joint_share(shape: tuple[int, int], kind: str, condition: float) -> None:
    weight = matrix(*shape, condition=condition)
    delta = update(kind, shape)
    dense = delta.dense().numpy()
    u, _, vh = np.linalg.svd(weight.numpy(), full_matrices=False)
    total = np.sum(dense**2)
    aligned = align(decompose(weight), weight, delta)
    left, right = np.sum((u.T @ dense) ** 2, 1) / total, np.sum((dense @ vh.T) ** 2, 0) / total
    np.testing.assert_allclose(aligned.left_profile, left, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(aligned.right_profile, right, rtol=1e-6, atol=1e-12)
    for chosen in (slice(0, 1), slice(0, 5), slice(11, 16), slice(0, 16)):
        joint = np.sum((u[:, chosen].T @ dense @ vh[chosen].T) ** 2) / total
        assert aligned.joint_share(chosen) == pytest.approx(joint, rel=1e-6)
    assert aligned.outside_left() == pytest.approx(1 - left.sum(), rel=1e-6, abs=1e-12)
    assert aligned.outside_right() == pytest.approx(1 - right.sum(), rel=1e-6, abs=1e-12)


def test_planted_principal_and_minor_updates() -> None:
    weight = matrix(16, 33)
    u, _, vh = torch.linalg.svd(weight, full_matrices=False)
    basis = decompose(weight)
    principal = align(basis, weight, LowRank(u[:, :2], vh[:2]))
    minor = align(basis, weight, LowRank(u[:, -2:], vh[-2:]))
    assert principal.joint_share(slice(0, 2)) == pytest.approx(1)
    assert minor.joint_share(slice(0, 2)) == pytest.approx(0, abs=1e-20)
    assert minor.joint_share(slice(14, 16)) == pytest.approx(1)


def test_shares_do_not_change_with_scale_or_base_rotation() -> None:
    weight, delta = matrix(16, 33), update("low rank", (16, 33)).dense()
    q = torch.linalg.qr(randn(16, 16, seed=8))[0]
    plain = align(decompose(weight), weight, Dense(delta))
    moved = align(decompose(q @ weight), q @ weight, Dense(1e-7 * q @ delta))
    torch.testing.assert_close(plain.left_profile, moved.left_profile, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(plain.right_profile, moved.right_profile, rtol=1e-8, atol=1e-12)


def test_zero_update_has_no_shares() -> None:
    weight = matrix(16, 33)
    aligned = align(decompose(weight), weight, LowRank(torch.zeros(16, 2), randn(2, 33)))
    assert torch.isnan(aligned.left_profile).all()
    assert torch.isnan(aligned.right_profile).all()
    assert np.isnan(aligned.joint_share(slice(0, 3)))


def test_bins_cover_everything_once() -> None:
    profile = torch.rand(70, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    edges = bin_edges(70, 32)
    assert (edges[0], edges[-1], len(edges)) == (0, 70, 33)
    assert {hi - lo for lo, hi in zip(edges[:-1], edges[1:], strict=True)} == {2, 3}
    assert sum(binned(profile, edges)) == pytest.approx(float(profile.sum()))
    assert bin_edges(3, 32) == [0, 1, 2, 3]


@pytest.mark.parametrize("condition", [10.0, 1e8])
@pytest.mark.parametrize("kind", ["dense", "low rank"])
@pytest.mark.parametrize("shape", SHAPES)
def test_map_diagonal_and_centroids(shape: tuple[int, int], kind: str, condition: float) -> None:
    weight, delta = matrix(*shape, condition=condition), update(kind, shape)
    dense, base = delta.dense().numpy(), weight.numpy()
    aligned = align(decompose(weight), weight, delta)
    for bins in (1, 5, 16, 40):
        found = aligned.map(bins).numpy()
        np.testing.assert_allclose(found, oracles_nulls.block_map(dense, base, bins), rtol=1e-6, atol=1e-12)
    assert float(aligned.map(5).sum()) == pytest.approx(aligned.joint_share(slice(0, 16)))
    assert aligned.diagonal_share() == pytest.approx(oracles_nulls.diagonal_share(dense, base), rel=1e-6)
    centroids = aligned.centroid_left(), aligned.centroid_right()
    assert centroids == pytest.approx(oracles_nulls.centroids(dense, base), rel=1e-6)
    inside = aligned.inside_left()[0], aligned.inside_right()[0]
    assert inside == pytest.approx(oracles_nulls.inside_concentrations(dense, base), rel=1e-6)


def test_planted_places() -> None:
    weight = matrix(16, 33)
    u, _, vh = torch.linalg.svd(weight, full_matrices=False)
    aligned = align(decompose(weight), weight, LowRank(u[:, [2, 5]], vh[[2, 11]]))
    assert (aligned.centroid_left(), aligned.centroid_right()) == (pytest.approx(3.5), pytest.approx(6.5))
    assert aligned.diagonal_share() == pytest.approx(0.5)
    assert aligned.inside_right() == pytest.approx((1 / 2, 1 / 4, 1 / 8))
    blocks = aligned.map(4)
    assert (float(blocks[0, 0]), float(blocks[1, 2])) == (pytest.approx(0.5), pytest.approx(0.5))


def test_a_zero_update_lies_nowhere() -> None:
    weight = matrix(16, 33)
    aligned = align(decompose(weight), weight, LowRank(torch.zeros(16, 2), randn(2, 33)))
    numbers = [aligned.diagonal_share(), aligned.centroid_left(), aligned.centroid_right()]
    assert np.isnan([*numbers, *aligned.inside_left(), *aligned.inside_right()]).all()
    assert torch.isnan(aligned.map(4)).all()
