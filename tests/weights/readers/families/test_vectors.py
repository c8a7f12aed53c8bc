"""ΔW of methods that train norms or biases, against peft's merge in float64 minus the base."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from spectra.errors import CorruptFileError
from tests.weights.readers.comparisons import ALL, check_undetermined, compare, make, open_adapter

# peft warns of options that are set here on purpose: an odd r, unsaved projections, embeddings.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

# Configuration class, settings, base, and the rank bound of its square matrices.
CASES: dict[str, tuple[str, dict[str, Any], str, int]] = {
    "norms": (
        "LNTuningConfig",
        {"target_modules": ["input_layernorm", "post_attention_layernorm", "norm"]},
        "llama",
        0,
    ),
    "norms with biases": ("LNTuningConfig", {"target_modules": ["ln_1", "ln_f"]}, "gpt2", 0),
    "norm tuning of a matrix": ("LNTuningConfig", {"target_modules": ["norm", "q_proj"]}, "biased", 32),
    "norm tuning of Conv1D": ("LNTuningConfig", {"target_modules": ["ln_1", "c_attn", "c_proj"]}, "gpt2", 32),
    "beft": ("BeftConfig", ALL, "biased", 0),
}


@pytest.mark.parametrize("case", CASES)
def test_against_the_merge_in_float64(bases: dict[str, Path], tmp_path: Path, case: str) -> None:
    base, end, _ = make(bases, tmp_path, CASES[case])
    compare(base, end, square_bound=CASES[case][3])


def test_beft_names_the_biases_that_the_base_lacks(bases: dict[str, Path], tmp_path: Path) -> None:
    base, end, _ = make(bases, tmp_path, CASES["beft"])
    bias = "model.layers.0.mlp.up_proj.bias"
    other = tmp_path / "base"
    other.mkdir()
    tensors = {key: tensor for key, tensor in load_file(base / "model.safetensors").items() if key != bias}
    save_file(tensors, other / "model.safetensors")
    updates = open_adapter(other, end)
    assert len(updates.vectors) == 13
    assert updates.skipped == {bias: "the base has no such bias to add to"}


@pytest.mark.parametrize("case", ["norms", "beft"])
def test_a_vector_of_another_length_is_an_error(bases: dict[str, Path], tmp_path: Path, case: str) -> None:
    base, end, _ = make(bases, tmp_path, CASES[case])
    function = next(iter(open_adapter(base, end).vectors.values()))
    with pytest.raises(CorruptFileError, match="numbers, the base 7"):
        function(torch.ones(7, dtype=torch.float64))


# Kind of file that leaves the update undetermined: how it is made, and the words of the refusal.
UNDETERMINED: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "biases that the base lacks": ("BeftConfig", {}, "llama", "no parameter of the base changes"),
}


@pytest.mark.parametrize("name", UNDETERMINED)
def test_files_that_leave_the_update_open_are_refused(bases: dict[str, Path], tmp_path: Path, name: str) -> None:
    check_undetermined(bases, tmp_path, *UNDETERMINED[name])
