"""ΔW of methods that tile the matrix with blocks, against peft's merge in float64 minus the base."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from spectra.errors import CorruptFileError, UnsupportedMethodError
from spectra.linalg.operators.basic import Dense, LowRank, Operator, Sum
from spectra.linalg.operators.kronecker_and_circulant import BlockCirculant
from tests.weights.conftest import make_adapter
from tests.weights.peft_merges import EXACT, SINGLE, updates_of
from tests.weights.readers.comparisons import Q, check_case, config_of

# Configuration class, settings, tolerance; class and largest rank of the update of a square matrix.
CASES: dict[str, tuple[str, dict[str, Any], float, type[Operator], int]] = {
    "miss": ("MissConfig", {"r": 4}, EXACT, LowRank, 4),
    "miss, cut": ("MissConfig", {"r": 5}, EXACT, LowRank, 5),
    "miss, random": ("MissConfig", {"r": 4, "init_weights": False}, EXACT, LowRank, 4),
    "miss, mini": ("MissConfig", {"r": 4, "init_weights": "mini", "mini_r": 2}, EXACT, LowRank, 2),
    "miss, mini, wide": ("MissConfig", {"r": 4, "init_weights": "mini", "mini_r": 8}, EXACT, LowRank, 4),
    "miss, bat": ("MissConfig", {"r": 4, "init_weights": "bat"}, EXACT, Dense, 32),
    "gralora": ("GraloraConfig", {"r": 4, "gralora_k": 2, "alpha": 8}, EXACT, LowRank, 8),
    "gralora, hybrid": ("GraloraConfig", {"r": 4, "gralora_k": 4, "hybrid_r": 3, "alpha": 8}, EXACT, Sum, 19),
    "gralora, dense": ("GraloraConfig", {"r": 16, "gralora_k": 2, "alpha": 8}, EXACT, Dense, 32),
    "c3a": ("C3AConfig", {"block_size": 8}, SINGLE, BlockCirculant, 32),
    "c3a, pattern": ("C3AConfig", {"block_size": 4, "block_size_pattern": {"q_proj": 16}}, SINGLE, BlockCirculant, 32),
    "c3a, from zero": ("C3AConfig", {"block_size": 1, "init_weights": True}, SINGLE, BlockCirculant, 32),
}


@pytest.mark.parametrize("case", CASES)
def test_against_the_merge_in_float64(llama: Path, tmp_path: Path, case: str) -> None:
    check_case(llama, tmp_path, case, CASES[case])


@pytest.mark.parametrize("case", ["miss, bat", "c3a", "gralora"])
def test_a_base_of_another_shape_is_named(llama: Path, tmp_path: Path, case: str) -> None:
    end, _ = make_adapter(llama, tmp_path, config_of(*CASES[case][:2]))
    updates, _ = updates_of(end, llama)
    with pytest.raises(CorruptFileError, match="base weight"):
        updates.matrices[Q](torch.zeros(20, 28, dtype=torch.float64))


def test_methods_that_do_not_name_the_rows_that_they_change_are_refused(llama: Path, tmp_path: Path) -> None:
    save_file({f"base_model.model.{Q}.adamss_A.0": torch.zeros(2, 4)}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "ADAMSS"}))
    with pytest.raises(UnsupportedMethodError, match="without the rows of W that they change"):
        updates_of(tmp_path, llama)
