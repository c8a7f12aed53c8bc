"""ΔW of methods that rotate or reflect the features around W, against peft's merge in float64 minus the base."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from spectra.errors import CorruptFileError, UnsupportedMethodError
from tests.weights.conftest import make_adapter
from tests.weights.peft_merges import change_config
from tests.weights.readers.comparisons import (
    ALL,
    EMBEDDED,
    QKV,
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
    "oft": ("OFTConfig", {**ALL, "oft_block_size": 8}, "llama", 32),
    "oft by number of blocks": ("OFTConfig", {**ALL, "r": 4, "oft_block_size": 0}, "llama", 32),
    "oft in one block": ("OFTConfig", {**ALL, "r": 1, "oft_block_size": 0}, "llama", 32),
    "oft, block size adjusted": ("OFTConfig", {**ALL, "oft_block_size": 5}, "llama", 32),
    "oft by Cayley": ("OFTConfig", {**ALL, "oft_block_size": 8, "use_cayley_neumann": False}, "llama", 32),
    "oft with shared blocks": ("OFTConfig", {**ALL, "oft_block_size": 8, "block_share": True}, "llama", 32),
    "coft that binds": ("OFTConfig", {**ALL, "oft_block_size": 8, "coft": True, "eps": 1e-3}, "llama", 32),
    "coft that does not": ("OFTConfig", {**ALL, "oft_block_size": 8, "coft": True, "eps": 1.0}, "llama", 32),
    "oft and all biases": ("OFTConfig", {**ALL, "oft_block_size": 8, "bias": "all"}, "biased", 32),
    "oft and its biases": ("OFTConfig", {**QKV, "oft_block_size": 8, "bias": "oft_only"}, "biased", 32),
    "oft of embeddings": ("OFTConfig", {**EMBEDDED, "oft_block_size": 8}, "llama", 32),
    "boft": ("BOFTConfig", {**ALL, "boft_block_size": 4}, "llama", 32),
    "boft with biases": ("BOFTConfig", {**ALL, "boft_block_size": 4}, "biased", 32),
    "boft in two factors": ("BOFTConfig", {**ALL, "boft_block_size": 4, "boft_n_butterfly_factor": 2}, "llama", 32),
    "boft in three factors": (
        "BOFTConfig",
        {**ALL, "boft_block_size": 0, "boft_block_num": 8, "boft_n_butterfly_factor": 3},
        "llama",
        32,
    ),
    "hra": ("HRAConfig", {**ALL, "r": 4}, "llama", 4),
    "hra, odd": ("HRAConfig", {**ALL, "r": 3}, "llama", 3),
    "hra, one reflection": ("HRAConfig", {**ALL, "r": 1}, "llama", 1),
    "hra, orthonormalised": ("HRAConfig", {**ALL, "r": 4, "apply_GS": True, "init_weights": False}, "llama", 4),
    "road 1": ("RoadConfig", {**ALL, "variant": "road_1", "group_size": 8}, "biased", 32),
    "road 2": ("RoadConfig", {**ALL, "variant": "road_2", "group_size": 16}, "biased", 32),
    "road 4": ("RoadConfig", {**ALL, "variant": "road_4", "group_size": 2}, "biased", 32),
}


@pytest.fixture(autouse=True)
def butterfly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give peft the one CUDA kernel that it lacks here: blocks to block-diagonal matrices."""

    def forward(blocks: Tensor) -> tuple[Tensor]:
        return (torch.stack([torch.block_diag(*factor) for factor in blocks]),)

    monkeypatch.setattr("peft.tuners.boft.layer.get_fbd_cuda", lambda: SimpleNamespace(forward=forward))


@pytest.mark.parametrize("case", CASES)
def test_against_the_merge_in_float64(bases: dict[str, Path], tmp_path: Path, case: str) -> None:
    base, end, _ = make(bases, tmp_path, CASES[case])
    compare(base, end, square_bound=CASES[case][3])


@pytest.mark.parametrize("case", ["oft", "boft", "hra"])
def test_on_a_base_in_bfloat16(bases: dict[str, Path], tmp_path: Path, case: str) -> None:
    base, end, _ = make(bases, tmp_path, CASES[case], "half")
    compare(base, end)


@pytest.mark.parametrize("case", ["oft", "boft", "hra", "road 1"])
def test_nothing_is_exactly_nothing_before_training(bases: dict[str, Path], tmp_path: Path, case: str) -> None:
    check_nothing_before_training(*make(bases, tmp_path, CASES[case]))


@pytest.mark.parametrize("terms", range(1, 8))
def test_every_length_of_the_neumann_series(bases: dict[str, Path], tmp_path: Path, terms: int) -> None:
    from peft import OFTConfig

    config = OFTConfig(**QKV, oft_block_size=8, num_cayley_neumann_terms=terms, init_weights=False)
    compare(bases["llama"], make_adapter(bases["llama"], tmp_path, config)[0])


def test_boft_without_cuda_has_one_factor_whatever_its_configuration_says(
    bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peft.tuners.boft.layer.get_fbd_cuda", lambda: None)
    base, end, _ = make(bases, tmp_path, CASES["boft in two factors"])
    assert json.loads((end / "adapter_config.json").read_text())["boft_n_butterfly_factor"] == 2
    compare(base, end)


REFUSED_OPTIONS: dict[str, tuple[str, dict[str, Any], str]] = {
    "the series of an older peft": ("oft", {"peft_version": "0.17.1"}, "another series in the peft before 0.18"),
    "the series of an unknown peft": ("oft", {"peft_version": None}, "another series in the peft before 0.18"),
    "OFT of transposed weights": ("oft", {"fan_in_fan_out": True}, "sets fan_in_fan_out"),
}


@pytest.mark.parametrize("name", REFUSED_OPTIONS)
def test_options_refused_by_name(bases: dict[str, Path], tmp_path: Path, name: str) -> None:
    case, settings, words = REFUSED_OPTIONS[name]
    base, end, _ = make(bases, tmp_path, CASES[case])
    change_config(end, **settings)
    with pytest.raises(UnsupportedMethodError, match=words):
        open_adapter(base, end)


def test_an_older_peft_is_fine_without_the_series(bases: dict[str, Path], tmp_path: Path) -> None:
    base, end, _ = make(bases, tmp_path, CASES["oft by Cayley"])
    change_config(end, peft_version="0.17.1")
    assert len(open_adapter(base, end).matrices) == 14


# Kind of file that leaves the update undetermined: how it is made, and the words of the refusal.
UNDETERMINED: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "reflections of equal columns": ("HRAConfig", {"r": 4, "apply_GS": True}, "llama", "linearly dependent columns"),
}


@pytest.mark.parametrize("name", UNDETERMINED)
def test_files_that_leave_the_update_open_are_refused(bases: dict[str, Path], tmp_path: Path, name: str) -> None:
    check_undetermined(bases, tmp_path, *UNDETERMINED[name])


@pytest.mark.parametrize("case", ["oft", "boft", "hra"])
def test_a_base_of_another_shape_is_an_error(bases: dict[str, Path], tmp_path: Path, case: str) -> None:
    base, end, _ = make(bases, tmp_path, CASES[case])
    other = torch.ones(36, 36, dtype=torch.float64)
    with pytest.raises(CorruptFileError, match="the base weight 36 × 36"):
        open_adapter(base, end).matrices["model.layers.0.self_attn.q_proj"](other)
