"""ΔW of methods that train few coefficients at fixed places, against peft's merge in float64 minus the base."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from spectra.errors import CorruptFileError, SpectraError, UnsupportedMethodError
from spectra.linalg.operators.basic import Dense, LowRank, Operator
from spectra.linalg.operators.kronecker_and_circulant import Placed
from spectra.weights.storage.tensors import TensorStore
from tests.builders import write_model
from tests.weights.conftest import make_adapter
from tests.weights.peft_merges import EXACT, SINGLE, updates_of
from tests.weights.readers.comparisons import (
    ALL,
    Q,
    check_case,
    check_contradicted,
    check_undetermined,
    compare,
    config_of,
    make,
    open_adapter,
)

SEED = {"n_frequency": 9, "random_loc_seed": 3}
# Configuration class, settings, tolerance; class and largest rank of the update of a square matrix.
CASES: dict[str, tuple[str, dict[str, Any], float, type[Operator], int]] = {
    "shira": ("ShiraConfig", {"r": 2, "random_seed": 1}, EXACT, Placed, 32),
    "fourierft": ("FourierFTConfig", SEED, SINGLE, LowRank, 16),
    "fourierft, dense": ("FourierFTConfig", SEED | {"n_frequency": 200, "scaling": 7.0}, SINGLE, Dense, 32),
    "fourierft, pattern": ("FourierFTConfig", SEED | {"n_frequency_pattern": {"q_proj": 3}}, SINGLE, LowRank, 6),
    "waveft": ("WaveFTConfig", SEED, EXACT, LowRank, 9),
    "waveft, db2": ("WaveFTConfig", SEED | {"wavelet_family": "db2", "n_frequency": 300}, EXACT, Dense, 32),
    "waveft, db7": ("WaveFTConfig", SEED | {"wavelet_family": "db7", "n_frequency": 12}, EXACT, LowRank, 12),
    "waveft, no transform": ("WaveFTConfig", SEED | {"use_idwt": False}, EXACT, Placed, 9),
    "waveft, proportional": ("WaveFTConfig", SEED | {"proportional_parameters": True}, EXACT, LowRank, 9),
}
# Configuration class, settings, base, and the rank bound of its square matrices.
OF_THE_BASE: dict[str, tuple[str, dict[str, Any], str, int]] = {
    "super-tuning": ("SupertuningConfig", {**ALL, "sparsity": 0.9}, "llama", 32),
    "super-tuning and LoRA": ("SupertuningConfig", {**ALL, "r": 2, "select_top": False}, "llama", 32),
    "super-tuning, chosen again": ("SupertuningConfig", {**ALL, "save_precomputed_indices": False}, "llama", 32),
}


# torch says it of the sparse tensors that peft makes.
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("case", CASES)
def test_against_the_merge_in_float64(llama: Path, tmp_path: Path, case: str) -> None:
    check_case(llama, tmp_path, case, CASES[case])


@pytest.mark.parametrize("case", ["shira"])
def test_a_base_of_another_shape_is_named(llama: Path, tmp_path: Path, case: str) -> None:
    end, _ = make_adapter(llama, tmp_path, config_of(*CASES[case][:2]))
    updates, _ = updates_of(end, llama)
    with pytest.raises(CorruptFileError, match="base weight"):
        updates.matrices[Q](torch.zeros(20, 28, dtype=torch.float64))


# A case, settings that no longer belong to its tensors, and the error of the first module.
CONTRADICTED: dict[str, tuple[str, dict[str, Any], type[SpectraError], str]] = {
    "wavelet": ("waveft", {"wavelet_family": "sym4"}, UnsupportedMethodError, "wavelet 'sym4' is not read exactly"),
}


@pytest.mark.parametrize("case", CONTRADICTED)
def test_a_configuration_of_another_adapter_is_named(llama: Path, tmp_path: Path, case: str) -> None:
    name, settings, error, words = CONTRADICTED[case]
    check_contradicted(llama, tmp_path, CASES[name], settings, error, words)


# peft says of places that it does not save that it chooses them again.
@pytest.mark.filterwarnings("ignore:save_precomputed_indices")
@pytest.mark.parametrize("case", OF_THE_BASE)
def test_super_tuning_against_the_merge_in_float64(bases: dict[str, Path], tmp_path: Path, case: str) -> None:
    base, end, _ = make(bases, tmp_path, OF_THE_BASE[case])
    compare(base, end, square_bound=OF_THE_BASE[case][3])


@pytest.mark.filterwarnings("ignore:save_precomputed_indices")
def test_super_tuning_refuses_equal_sizes_at_the_edge_of_its_choice(bases: dict[str, Path], tmp_path: Path) -> None:
    base, end, _ = make(bases, tmp_path, OF_THE_BASE["super-tuning, chosen again"])
    module = "model.layers.0.self_attn.q_proj"
    weight = TensorStore.open_model(base)[f"{module}.weight"]
    count = len(load_file(end / "adapter_model.safetensors")[f"base_model.model.{module}.supertuning_values"])
    order = weight.abs().flatten().topk(count + 1).indices
    weight.view(-1)[order[-1]] = weight.view(-1)[order[-2]]
    other = write_model(tmp_path / "tied", {f"{module}.weight": weight})
    with pytest.raises(UnsupportedMethodError, match="entries of the base have equal sizes"):
        open_adapter(other, end).matrices[module](weight.double())


def test_super_tuning_of_entries_that_the_base_lacks(bases: dict[str, Path], tmp_path: Path) -> None:
    base, end, _ = make(bases, tmp_path, OF_THE_BASE["super-tuning"])
    with pytest.raises(CorruptFileError, match="outside the base weight, 20 × 20"):
        open_adapter(base, end).matrices["model.layers.0.self_attn.q_proj"](torch.ones(20, 20, dtype=torch.float64))


# Kind of file that leaves the update undetermined: how it is made, and the words of the refusal.
UNDETERMINED: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "entries of equal size": (
        "SupertuningConfig",
        {"save_precomputed_indices": False, "sparsity": 0.5},
        "half",
        "depended on the device",
    ),
}


@pytest.mark.filterwarnings("ignore:save_precomputed_indices")
@pytest.mark.parametrize("name", UNDETERMINED)
def test_files_that_leave_the_update_open_are_refused(bases: dict[str, Path], tmp_path: Path, name: str) -> None:
    check_undetermined(bases, tmp_path, *UNDETERMINED[name])
