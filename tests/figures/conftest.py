import numpy as np
import pytest

from spectra.runs.tables import Tables, empty
from tests.figures.synthetic_tables import Spec, make, off_principal, principal


@pytest.fixture(scope="session")
def lora() -> Tables:
    return make(Spec())


@pytest.fixture(scope="session")
def full() -> Tables:
    return make(Spec(rank=None, left=off_principal, right=off_principal, method="full", norms=True, embedding=True))


@pytest.fixture(scope="session")
def pissa() -> Tables:
    """Locked into the principal directions; the reward collapses at step 40 while the norm runs away."""
    return make(
        Spec(
            left=principal,
            right=principal,
            method="pissa",
            relative=lambda step: 3e-3 * 1.07**step - 3e-3,
            reward=lambda t: np.where(t < 40, 0.1 + 0.01 * t, 0.01),
        )
    )


@pytest.fixture(scope="session")
def untrained() -> Tables:
    """Only step 0: ΔW = 0 everywhere, nothing logged."""
    return make(Spec(steps=(0,)))


@pytest.fixture(scope="session")
def vectors(full: Tables) -> Tables:
    """Only norms train."""
    norms = full.modules[full.modules["kind"] == "input_layernorm"]
    return Tables(norms, *(empty(name) for name in ("projection", "profile", "spectrum", "series")))


@pytest.fixture(scope="session")
def whole() -> Tables:
    """All tables, two deep steps, snapshots rounded to half precision, update tilted to the last directions."""
    return make(Spec(deep=(32, 64), tilt=0.6, rounding=1.5e-3))
