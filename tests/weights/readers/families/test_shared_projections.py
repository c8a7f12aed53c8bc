"""ΔW of methods with tensors that all modules share, against peft's merge in float64 minus the base."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from spectra.errors import BaseModelError, CorruptFileError, MissingDependencyError, UnsupportedMethodError
from spectra.linalg.operators.basic import Dense, LowRank, Operator
from tests.builders import write_model
from tests.weights.conftest import make_adapter, write_llama
from tests.weights.peft_merges import EXACT, SINGLE, change_config, load, updates_of
from tests.weights.readers.comparisons import Q, check_against_the_merge, check_case, config_of

# What peft says of projections that it draws again.
pytestmark = pytest.mark.filterwarnings("ignore:Specified to not")

RANDOM = {"r": 8, "randlora_alpha": 16}
BANK = {"r": 2, "num_vectors": 10, "vector_length": 8, "topk": 3}
UNI = {"r": 2, "theta_d_length": 300, "proj_seed": 5}
# Configuration class, settings, tolerance; class and largest rank of the update of a square matrix.
CASES: dict[str, tuple[str, dict[str, Any], float, type[Operator], int]] = {
    "vera": ("VeraConfig", {"r": 5}, EXACT, LowRank, 5),
    "vera, drawn again": (
        "VeraConfig",
        {"r": 5, "save_projection": False, "projection_prng_key": 7},
        EXACT,
        LowRank,
        5,
    ),
    "pvera": ("PveraConfig", {"r": 5, "d_initial": 0.5}, EXACT, LowRank, 5),
    "pvera, drawn again": ("PveraConfig", {"r": 5, "save_projection": False}, EXACT, LowRank, 5),
    "randlora": ("RandLoraConfig", RANDOM, EXACT, Dense, 32),
    "randlora, drawn again": ("RandLoraConfig", RANDOM | {"r": 6, "save_projection": False}, EXACT, Dense, 32),
    "randlora, sparse": ("RandLoraConfig", RANDOM | {"sparse": True, "save_projection": False}, EXACT, Dense, 32),
    "randlora, very sparse": (
        "RandLoraConfig",
        RANDOM | {"very_sparse": True, "save_projection": False},
        EXACT,
        Dense,
        32,
    ),
    "vblora": ("VBLoRAConfig", BANK, EXACT, LowRank, 2),
    "vblora, topk": ("VBLoRAConfig", BANK | {"save_only_topk_weights": True}, SINGLE, LowRank, 2),
    "unilora": ("UniLoraConfig", UNI | {"save_indices": True}, EXACT, LowRank, 2),
    "unilora, dealt again": ("UniLoraConfig", UNI, EXACT, LowRank, 2),
    "unilora, pattern": (
        "UniLoraConfig",
        UNI | {"target_modules": r".*(q|o)_proj", "modules_to_save": ["lm_head"]},
        EXACT,
        LowRank,
        2,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_against_the_merge_in_float64(llama: Path, tmp_path: Path, case: str) -> None:
    check_case(llama, tmp_path, case, CASES[case])


@pytest.mark.parametrize("case", [name for name in CASES if "drawn again" in name or "dealt again" in name])
def test_what_is_drawn_again_is_rounded_to_a_half_precision_base(
    bases: dict[str, Path], tmp_path: Path, case: str
) -> None:
    kind, settings, tolerance, _, _ = CASES[case]
    end, _ = make_adapter(bases["half"], tmp_path, config_of(kind, settings), size=1e-2)
    assert load(bases["half"]).dtype == torch.bfloat16
    check_against_the_merge(bases["half"], end, tolerance)


@pytest.mark.parametrize("case", ["vera, drawn again", "randlora"])
def test_a_base_of_another_shape_is_named(llama: Path, tmp_path: Path, case: str) -> None:
    end, _ = make_adapter(llama, tmp_path, config_of(*CASES[case][:2]))
    updates, _ = updates_of(end, llama)
    with pytest.raises(CorruptFileError, match="base weight"):
        updates.matrices[Q](torch.zeros(20, 28, dtype=torch.float64))


def test_projections_are_not_drawn_for_a_base_without_the_modules(llama: Path, tmp_path: Path) -> None:
    end, _ = make_adapter(llama, tmp_path / "adapter", config_of(*CASES["vera, drawn again"][:2]))
    short = write_llama(tmp_path / "short", num_hidden_layers=1)
    with pytest.raises(BaseModelError, match="shared projections cannot be redrawn"):
        updates_of(end, short)


def test_unilora_without_indices_needs_the_models_code(llama: Path, tmp_path: Path) -> None:
    end, _ = make_adapter(llama, tmp_path / "adapter", config_of(*CASES["unilora, dealt again"][:2]))
    bare = write_model(tmp_path / "bare", load_file(llama / "model.safetensors"))
    with pytest.raises(BaseModelError, match="names no model_type"):
        updates_of(end, bare)
    change_config(end, target_modules=None)
    with pytest.raises(UnsupportedMethodError, match="stores no indices"):
        updates_of(end, llama)


def test_unilora_without_indices_needs_transformers(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end, _ = make_adapter(llama, tmp_path / "adapter", config_of(*CASES["unilora, dealt again"][:2]))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        MissingDependencyError, match="install transformers, or save the adapter with save_indices=True"
    ):
        updates_of(end, llama)
