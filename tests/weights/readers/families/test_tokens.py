"""ΔW of trainable tokens, against peft's merge in float64 minus the base."""

from pathlib import Path
from typing import Any

import pytest

from spectra.errors import BaseModelError, SpectraError
from spectra.linalg.operators.basic import Operator
from spectra.linalg.operators.kronecker_and_circulant import Placed
from tests.weights.peft_merges import EXACT
from tests.weights.readers.comparisons import check_case, check_contradicted

# Configuration class, settings, tolerance; class and largest rank of the update of a square matrix.
CASES: dict[str, tuple[str, dict[str, Any], float, type[Operator], int]] = {
    "tokens": ("TrainableTokensConfig", {"token_indices": [7, 2, 30]}, EXACT, Placed, 3),
}


@pytest.mark.parametrize("case", CASES)
def test_against_the_merge_in_float64(llama: Path, tmp_path: Path, case: str) -> None:
    check_case(llama, tmp_path, case, CASES[case])


# A case, settings that no longer belong to its tensors, and the error of the first module.
CONTRADICTED: dict[str, tuple[str, dict[str, Any], type[SpectraError], str]] = {
    "token": (
        "tokens",
        {"token_indices": [7, 2, 40]},
        BaseModelError,
        "token 40 of width 32 is not in a base of 40 × 32",
    ),
}


@pytest.mark.parametrize("case", CONTRADICTED)
def test_a_configuration_of_another_adapter_is_named(llama: Path, tmp_path: Path, case: str) -> None:
    name, settings, error, words = CONTRADICTED[case]
    check_contradicted(llama, tmp_path, CASES[name], settings, error, words)
