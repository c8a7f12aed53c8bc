"""ΔW of FRoD, against peft's merge in float64 minus the base."""

from pathlib import Path
from typing import Any

import pytest
import torch

from spectra.errors import CorruptFileError, UnsupportedMethodError
from tests.weights.conftest import change_file
from tests.weights.readers.comparisons import ALL, CONV, compare, make, open_adapter

# peft warns of options that are set here on purpose: an odd r, unsaved projections, embeddings.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

# Configuration class, settings, base, and the rank bound of its square matrices.
CASES: dict[str, tuple[str, dict[str, Any], str, int]] = {
    "frod": ("FrodConfig", {**ALL, "sparse_rate": 0.2, "progressbar": False}, "llama", 32),
    "frod, made again": ("FrodConfig", {**ALL, "save_projection": False, "projection_prng_key": 5}, "llama", 32),
    "frod, nothing sparse": ("FrodConfig", {**ALL, "save_projection": False, "sparse_rate": 0.0}, "llama", 32),
    "frod of Conv1D": ("FrodConfig", {**CONV, "save_projection": False}, "gpt2", 32),
}


@pytest.mark.parametrize("case", CASES)
def test_against_the_merge_in_float64(bases: dict[str, Path], tmp_path: Path, case: str) -> None:
    base, end, _ = make(bases, tmp_path, CASES[case])
    compare(base, end, square_bound=CASES[case][3])


@pytest.mark.parametrize("case", ["frod", "frod, made again"])
def test_on_a_base_in_bfloat16(bases: dict[str, Path], tmp_path: Path, case: str) -> None:
    base, end, _ = make(bases, tmp_path, CASES[case], "half")
    compare(base, end)


def test_frod_refuses_two_modules_of_one_kind_in_a_layer(bases: dict[str, Path], tmp_path: Path) -> None:
    base, end, _ = make(bases, tmp_path, CASES["frod, made again"])
    twin = "base_model.model.vision.layers.0.self_attn.q_proj.frod_lambda_l"
    change_file(end / "adapter_model.safetensors", lambda tensors: {**tensors, twin: torch.ones(32)})
    with pytest.raises(UnsupportedMethodError, match=r"q_proj are of one kind in one layer"):
        open_adapter(base, end).matrices["model.layers.0.mlp.up_proj"](torch.zeros(48, 32, dtype=torch.float64))


@pytest.mark.parametrize("case", ["frod"])
def test_a_file_that_lacks_a_shared_tensor_is_named(bases: dict[str, Path], tmp_path: Path, case: str) -> None:
    base, end, _ = make(bases, tmp_path, CASES[case])
    lost = {"frod": "frod_V.self_attn_q_proj", "tinylora": "tinylora_v.3"}[case]
    change_file(
        end / "adapter_model.safetensors", lambda tensors: {k: v for k, v in tensors.items() if not k.endswith(lost)}
    )
    with pytest.raises(CorruptFileError, match="has no (frod_V for self_attn_q_proj|tinylora_v.3)"):
        open_adapter(base, end).matrices["model.layers.0.self_attn.q_proj"](torch.zeros(32, 32, dtype=torch.float64))


@pytest.mark.parametrize("case", ["frod"])
def test_a_base_of_another_shape_is_an_error(bases: dict[str, Path], tmp_path: Path, case: str) -> None:
    base, end, _ = make(bases, tmp_path, CASES[case])
    other = torch.ones(36, 36, dtype=torch.float64)
    with pytest.raises(CorruptFileError, match="the base weight 36 × 36"):
        open_adapter(base, end).matrices["model.layers.0.self_attn.q_proj"](other)
