"""Every annotation of a shape is checked while the tests run; code without one is not slowed down by checks."""

import re
from pathlib import Path

import jaxtyping
import pytest
import torch

from spectra.linalg.decompositions.spectrum import stable_rank

ROOT = Path(__file__).parents[1]
ANNOTATED = sorted(
    path for path in (ROOT / "spectra").rglob("*.py") if re.search(r"^from jaxtyping import", path.read_text(), re.M)
)


def test_every_module_with_shapes_is_checked(pytestconfig: pytest.Config) -> None:
    packages = pytestconfig.getoption("jaxtyping_packages").split(",")[:-1]
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in ANNOTATED]
    assert len(modules) > 20
    assert [name for name in modules if not any(f"{name}.".startswith(f"{package}.") for package in packages)] == []
    # A package that holds no shape any more costs time for nothing.
    assert [package for package in packages if not any(f"{n}.".startswith(f"{package}.") for n in modules)] == []


def test_a_wrong_shape_is_an_error() -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        stable_rank(torch.ones(2, 2, dtype=torch.float64))
