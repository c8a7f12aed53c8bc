"""ΔW of entrywise and Kronecker products, against peft's merge in float64 minus the base."""

from pathlib import Path
from typing import Any

import pytest
import torch

from spectra.errors import CorruptFileError
from spectra.linalg.operators.basic import Dense, LowRank, Operator
from spectra.linalg.operators.kronecker_and_circulant import Kronecker
from tests.weights.conftest import make_adapter
from tests.weights.peft_merges import EXACT, SINGLE, updates_of
from tests.weights.readers.comparisons import Q, check_case, config_of

# Configuration class, settings, tolerance; class and largest rank of the update of a square matrix.
CASES: dict[str, tuple[str, dict[str, Any], float, type[Operator], int]] = {
    "loha": ("LoHaConfig", {"r": 2, "alpha": 3}, EXACT, LowRank, 4),
    "loha, dense": ("LoHaConfig", {"r": 6, "alpha": 3, "alpha_pattern": {"up_proj": 5}}, SINGLE, Dense, 32),
    "loha, patterns": ("LoHaConfig", {"r": 2, "alpha": 3, "rank_pattern": {"q_proj": 3}}, EXACT, LowRank, 9),
    "lokr": ("LoKrConfig", {"r": 2, "alpha": 3}, EXACT, Kronecker, 8),
    "lokr, both": ("LoKrConfig", {"r": 1, "alpha": 3, "decompose_both": True}, EXACT, Kronecker, 1),
    "lokr, whole": ("LoKrConfig", {"r": 8, "alpha": 3, "init_weights": "lycoris"}, EXACT, Kronecker, 32),
    "lokr, factor": ("LoKrConfig", {"r": 2, "alpha": 3, "decompose_factor": 2}, EXACT, Kronecker, 4),
}


@pytest.mark.parametrize("case", CASES)
def test_against_the_merge_in_float64(llama: Path, tmp_path: Path, case: str) -> None:
    check_case(llama, tmp_path, case, CASES[case])


@pytest.mark.parametrize("case", ["loha", "lokr"])
def test_a_base_of_another_shape_is_named(llama: Path, tmp_path: Path, case: str) -> None:
    end, _ = make_adapter(llama, tmp_path, config_of(*CASES[case][:2]))
    updates, _ = updates_of(end, llama)
    with pytest.raises(CorruptFileError, match="base weight"):
        updates.matrices[Q](torch.zeros(20, 28, dtype=torch.float64))
