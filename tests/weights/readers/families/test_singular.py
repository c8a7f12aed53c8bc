"""ΔW of methods that train between singular vectors of W, against peft's merge in float64 minus the base."""

from pathlib import Path
from typing import Any

import pytest
import torch

from spectra.errors import CorruptFileError, UnsupportedMethodError
from tests.weights.conftest import change_file
from tests.weights.peft_merges import change_config
from tests.weights.readers.comparisons import (
    ALL,
    EMBEDDED,
    check_nothing_before_training,
    check_undetermined,
    compare,
    make,
    open_adapter,
)

# peft warns of options that are set here on purpose: an odd r, unsaved projections, embeddings.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

# Configuration class, settings, base, and the rank bound of its square matrices.
CASES: dict[str, tuple[str, dict[str, Any], str, int]] = {
    "psoft": ("PsoftConfig", {**ALL, "r": 4, "psoft_alpha": 7}, "llama", 4),
    "psoft, both sides alike": (
        "PsoftConfig",
        {**ALL, "r": 4, "psoft_alpha": 7, "ab_svd_init": "pissa_init"},
        "llama",
        4,
    ),
    "psoft, free": ("PsoftConfig", {**ALL, "r": 4, "psoft_orth": False, "psoft_mag_a": False}, "llama", 4),
    "psoft, series": ("PsoftConfig", {**ALL, "r": 4, "use_cayley_neumann": True, "psoft_mag_b": False}, "llama", 4),
    "psoft, limited series": (
        "PsoftConfig",
        {**ALL, "r": 4, "use_cayley_neumann": True, "cayley_neumann_eps": 1e-3, "num_cayley_neumann_terms": 7},
        "llama",
        4,
    ),
    "psoft, random SVD": ("PsoftConfig", {**ALL, "r": 4, "psoft_svd": "lowrank", "random_seed": 3}, "llama", 4),
    "tinylora": ("TinyLoraConfig", {**ALL, "u": 5}, "llama", 2),
    "tinylora, partly tied": ("TinyLoraConfig", {**ALL, "u": 5, "weight_tying": 0.7}, "llama", 2),
    "tinylora, one vector": ("TinyLoraConfig", {**ALL, "u": 5, "weight_tying": 1.0, "projection_seed": 1}, "llama", 2),
    "tinylora of embeddings": ("TinyLoraConfig", {**EMBEDDED, "r": 3}, "llama", 3),
    "tinylora of Conv1D": ("TinyLoraConfig", {"target_modules": ["c_fc", "wte"]}, "gpt2", 2),
    "osf": ("OSFConfig", ALL, "llama", 32),
    "osf, patterns": ("OSFConfig", {**ALL, "effective_rank": 20, "rank_pattern": {"q_proj|o_proj": 0.9}}, "llama", 8),
    "osf, random start": ("OSFConfig", {**ALL, "init_weights": False}, "llama", 32),
}


@pytest.mark.parametrize("case", CASES)
def test_against_the_merge_in_float64(bases: dict[str, Path], tmp_path: Path, case: str) -> None:
    base, end, _ = make(bases, tmp_path, CASES[case])
    compare(base, end, square_bound=CASES[case][3])


@pytest.mark.parametrize("case", ["psoft", "tinylora", "osf"])
def test_on_a_base_in_bfloat16(bases: dict[str, Path], tmp_path: Path, case: str) -> None:
    base, end, _ = make(bases, tmp_path, CASES[case], "half")
    compare(base, end)


@pytest.mark.parametrize("case", ["psoft", "tinylora", "osf"])
def test_nothing_is_exactly_nothing_before_training(bases: dict[str, Path], tmp_path: Path, case: str) -> None:
    check_nothing_before_training(*make(bases, tmp_path, CASES[case]))


REFUSED_OPTIONS: dict[str, tuple[str, dict[str, Any], str]] = {
    "projections of another seed": ("tinylora", {"projection_seed": 43}, "do not match projection_seed"),
}


@pytest.mark.parametrize("name", REFUSED_OPTIONS)
def test_options_refused_by_name(bases: dict[str, Path], tmp_path: Path, name: str) -> None:
    case, settings, words = REFUSED_OPTIONS[name]
    base, end, _ = make(bases, tmp_path, CASES[case])
    change_config(end, **settings)
    with pytest.raises(UnsupportedMethodError, match=words):
        open_adapter(base, end)


# Kind of file that leaves the update undetermined: how it is made, and the words of the refusal.
UNDETERMINED: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "tinylora without projections": ("TinyLoraConfig", {"save_projection": False}, "llama", "save_projection is off"),
}


@pytest.mark.parametrize("name", UNDETERMINED)
def test_files_that_leave_the_update_open_are_refused(bases: dict[str, Path], tmp_path: Path, name: str) -> None:
    check_undetermined(bases, tmp_path, *UNDETERMINED[name])


@pytest.mark.parametrize("case", ["tinylora"])
def test_a_file_that_lacks_a_shared_tensor_is_named(bases: dict[str, Path], tmp_path: Path, case: str) -> None:
    base, end, _ = make(bases, tmp_path, CASES[case])
    lost = {"frod": "frod_V.self_attn_q_proj", "tinylora": "tinylora_v.3"}[case]
    change_file(
        end / "adapter_model.safetensors", lambda tensors: {k: v for k, v in tensors.items() if not k.endswith(lost)}
    )
    with pytest.raises(CorruptFileError, match="has no (frod_V for self_attn_q_proj|tinylora_v.3)"):
        open_adapter(base, end).matrices["model.layers.0.self_attn.q_proj"](torch.zeros(32, 32, dtype=torch.float64))


@pytest.mark.parametrize("case", ["tinylora", "osf"])
def test_a_base_of_another_shape_is_an_error(bases: dict[str, Path], tmp_path: Path, case: str) -> None:
    base, end, _ = make(bases, tmp_path, CASES[case])
    other = torch.ones(36, 36, dtype=torch.float64)
    with pytest.raises(CorruptFileError, match="the base weight 36 × 36"):
        open_adapter(base, end).matrices["model.layers.0.self_attn.q_proj"](other)
