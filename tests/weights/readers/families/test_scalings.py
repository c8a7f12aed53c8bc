"""ΔW of methods that scale the entries of W, against peft's merge in float64 minus the base."""

from pathlib import Path
from typing import Any

import pytest
import torch

from spectra.errors import CorruptFileError, UnsupportedMethodError
from spectra.weights.storage.tensors import TensorStore
from tests.weights.conftest import change_file
from tests.weights.peft_merges import change_config
from tests.weights.readers.comparisons import (
    ALL,
    CONV,
    EMBEDDED,
    FFN,
    check_nothing_before_training,
    compare,
    distance,
    make,
    merged_minus_base,
    open_adapter,
)

# peft warns of options that are set here on purpose: an odd r, unsaved projections, embeddings.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

# Configuration class, settings, base, and the rank bound of its square matrices.
CASES: dict[str, tuple[str, dict[str, Any], str, int]] = {
    "ia3": ("IA3Config", {**ALL, "feedforward_modules": FFN}, "llama", 32),
    "ia3 with biases": ("IA3Config", {**ALL, "feedforward_modules": FFN}, "biased", 32),
    "ia3 of Conv1D": ("IA3Config", {**CONV, "feedforward_modules": ["c_fc"]}, "gpt2", 32),
    "hira": ("HiraConfig", {**ALL, "r": 4}, "llama", 32),
    "hira of embeddings": ("HiraConfig", {**EMBEDDED, "r": 4}, "llama", 32),
    # peft notes what it finds for the other methods, and not for HiRA: the file says fan_in_fan_out false.
    "hira of Conv1D, not noted": ("HiraConfig", {"r": 4, "target_modules": ["c_attn", "c_proj"]}, "gpt2", 32),
    "hira of Conv1D": ("HiraConfig", {"r": 4, "target_modules": ["c_fc", "wte"], "fan_in_fan_out": True}, "gpt2", 32),
    "delora": ("DeloraConfig", {**ALL, "r": 4}, "llama", 4),
    "delora, patterns": (
        "DeloraConfig",
        {**ALL, "r": 4, "rank_pattern": {"k_proj": 2}, "lambda_pattern": {"q_proj": 3}},
        "llama",
        4,
    ),
    "glora": ("GloraConfig", {**ALL, "r": 4}, "biased", 32),
    "glora of columns": (
        "GloraConfig",
        {**ALL, "config_A_B": "vector", "config_C": "vector", "config_D_E": "vector"},
        "biased",
        32,
    ),
    "glora of numbers": ("GloraConfig", {**ALL, "config_A_B": "constant", "config_C": "none"}, "biased", 32),
    "glora of biases": ("GloraConfig", {**ALL, "config_A_B": "none", "config_D_E": "none"}, "biased", 1),
    "glora without biases": ("GloraConfig", {**ALL, "r": 4}, "llama", 32),
}


@pytest.mark.parametrize("case", CASES)
def test_against_the_merge_in_float64(bases: dict[str, Path], tmp_path: Path, case: str) -> None:
    base, end, _ = make(bases, tmp_path, CASES[case])
    compare(base, end, square_bound=CASES[case][3])


@pytest.mark.parametrize("case", ["ia3", "hira", "delora"])
def test_on_a_base_in_bfloat16(bases: dict[str, Path], tmp_path: Path, case: str) -> None:
    base, end, _ = make(bases, tmp_path, CASES[case], "half")
    compare(base, end)


@pytest.mark.parametrize("case", ["ia3", "hira", "delora", "glora"])
def test_nothing_is_exactly_nothing_before_training(bases: dict[str, Path], tmp_path: Path, case: str) -> None:
    check_nothing_before_training(*make(bases, tmp_path, CASES[case]))


def test_delora_takes_the_norms_of_the_base_where_the_file_has_none(bases: dict[str, Path], tmp_path: Path) -> None:
    base, end, _ = make(bases, tmp_path, CASES["delora"])
    expected = merged_minus_base(base, end)
    change_file(end / "adapter_model.safetensors", lambda t: {k: v for k, v in t.items() if "w_norm" not in k})
    weight = TensorStore.open_model(base)["model.layers.0.self_attn.q_proj.weight"].double()
    found = open_adapter(base, end).matrices["model.layers.0.self_attn.q_proj"](weight).dense()
    assert distance(found, expected["model.layers.0.self_attn.q_proj.weight"]) < 1e-6  # peft's norms are float32


REFUSED_OPTIONS: dict[str, tuple[str, dict[str, Any], str]] = {
    "a trained bias under GLoRA's": ("glora", {"bias": "all"}, "sets bias"),
}


@pytest.mark.parametrize("name", REFUSED_OPTIONS)
def test_options_refused_by_name(bases: dict[str, Path], tmp_path: Path, name: str) -> None:
    case, settings, words = REFUSED_OPTIONS[name]
    base, end, _ = make(bases, tmp_path, CASES[case])
    change_config(end, **settings)
    with pytest.raises(UnsupportedMethodError, match=words):
        open_adapter(base, end)


@pytest.mark.parametrize("case", ["ia3", "hira", "delora"])
def test_a_base_of_another_shape_is_an_error(bases: dict[str, Path], tmp_path: Path, case: str) -> None:
    base, end, _ = make(bases, tmp_path, CASES[case])
    other = torch.ones(36, 36, dtype=torch.float64)
    with pytest.raises(CorruptFileError, match="the base weight 36 × 36"):
        open_adapter(base, end).matrices["model.layers.0.self_attn.q_proj"](other)


@pytest.mark.parametrize("case", ["ia3 with biases"])
def test_a_vector_of_another_length_is_an_error(bases: dict[str, Path], tmp_path: Path, case: str) -> None:
    base, end, _ = make(bases, tmp_path, CASES[case])
    function = next(iter(open_adapter(base, end).vectors.values()))
    with pytest.raises(CorruptFileError, match="numbers, the base 7"):
        function(torch.ones(7, dtype=torch.float64))
