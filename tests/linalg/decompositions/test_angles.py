"""Principal angles against scipy, and where arccos cannot see."""

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles

from spectra.linalg.decompositions.angles import orthonormal_angles, principal_angles, vector_angles
from tests.builders import randn


@pytest.mark.parametrize(("k", "l"), [(3, 3), (2, 5), (5, 2)])
def test_against_scipy(k: int, l: int) -> None:  # noqa: E741 - the shape letter
    x, y = randn(20, k), randn(20, l, seed=1)
    expected = np.rad2deg(np.sort(subspace_angles(x.numpy(), y.numpy())))
    np.testing.assert_allclose(principal_angles(x, y), expected, rtol=1e-10)


@pytest.mark.parametrize("degrees", [1e-9, 1e-4, 1.0, 44.0, 46.0, 89.999])
def test_a_planted_angle(degrees: float) -> None:
    angle = np.deg2rad(degrees)
    x = torch.eye(6, dtype=torch.float64)[:, :2]
    y = x.clone()
    y[:, 1] = torch.tensor([0, np.cos(angle), np.sin(angle), 0, 0, 0])
    found = principal_angles(x, y)
    assert float(found[0]) == pytest.approx(0, abs=1e-12)
    assert float(found[1]) == pytest.approx(degrees, rel=1e-6)


@pytest.mark.parametrize("degrees", [0.0, 1e-10, 1e-4, 1.0, 60.0, 90.0])
def test_angles_between_lines(degrees: float) -> None:
    angle = np.deg2rad(degrees)
    x = torch.eye(4, dtype=torch.float64)[:, :2]
    turned = torch.tensor([[np.cos(angle), 0], [0, -np.cos(angle)], [np.sin(angle), 0], [0, np.sin(angle)]])
    np.testing.assert_allclose(vector_angles(x, turned), [degrees, degrees], rtol=1e-14)


@pytest.mark.parametrize("size", [1e-7, 1e-3, 0.5, 10.0])
def test_angles_of_orthonormal_columns_are_the_principal_angles(size: float) -> None:
    x = torch.linalg.qr(randn(30, 5))[0]
    y = torch.linalg.qr(x + size * randn(30, 5, seed=1))[0]
    np.testing.assert_allclose(orthonormal_angles(x, y), principal_angles(x, y), rtol=1e-7)
    whole = torch.linalg.qr(randn(5, 5))[0]
    assert orthonormal_angles(whole, whole.flip(1)).tolist() == [0.0] * 5
