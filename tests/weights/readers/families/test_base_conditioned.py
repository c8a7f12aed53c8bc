"""ΔW of methods that make their factors from W, against peft's merge in float64 minus the base."""

from pathlib import Path
from typing import Any

import pytest
import torch

from spectra.errors import CorruptFileError, UnsupportedMethodError
from tests.weights.conftest import make_adapter
from tests.weights.peft_merges import change_config
from tests.weights.readers.comparisons import ALL, CONV, QKV, check_nothing_before_training, compare, make, open_adapter

# peft warns of options that are set here on purpose: an odd r, unsaved projections, embeddings.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

ACTIVATIONS = ("relu6", "leaky_relu", "gelu_pytorch_tanh", "silu", "swish", "mish", "sigmoid", "tanh", "linear")
# Configuration class, settings, base, and the rank bound of its square matrices.
CASES: dict[str, tuple[str, dict[str, Any], str, int]] = {
    "deft": ("DeftConfig", {**ALL, "r": 4}, "llama", 4),
    "deft by QR": ("DeftConfig", {**ALL, "r": 4, "decomposition_method": "qr", "alpha": 3}, "llama", 4),
    "deft, removal only": ("DeftConfig", {**ALL, "r": 4, "para": True}, "llama", 4),
    "deft of Conv1D": ("DeftConfig", {**CONV, "r": 4}, "gpt2", 4),
    "peanut": ("PeanutConfig", {**ALL, "r": 4}, "llama", 4),
    "peanut, deep": ("PeanutConfig", {**ALL, "r": 4, "depth": 2, "scaling": 0.3, "act_fn": "gelu"}, "llama", 4),
}


@pytest.mark.parametrize("case", [case for case in CASES if not case.startswith("deft")])
def test_against_the_merge_in_float64(bases: dict[str, Path], tmp_path: Path, case: str) -> None:
    base, end, _ = make(bases, tmp_path, CASES[case])
    compare(base, end, square_bound=CASES[case][3])


class _Double:
    """torch, with float64 under the name of float32."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("deft")])
def test_deft_against_its_merge_in_float32_and_in_float64(
    bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """Peft merges DEFT in float32 whatever the dtype of the model: with that name replaced, it merges in float64."""
    base, end, _ = make(bases, tmp_path, CASES[case])
    compare(base, end, tolerance=1e-5, square_bound=CASES[case][3])
    monkeypatch.setattr("peft.tuners.deft.layer.torch", _Double())
    compare(base, end)


@pytest.mark.parametrize("case", ["peanut"])
def test_on_a_base_in_bfloat16(bases: dict[str, Path], tmp_path: Path, case: str) -> None:
    base, end, _ = make(bases, tmp_path, CASES[case], "half")
    compare(base, end)


@pytest.mark.parametrize("case", ["peanut"])
def test_nothing_is_exactly_nothing_before_training(bases: dict[str, Path], tmp_path: Path, case: str) -> None:
    check_nothing_before_training(*make(bases, tmp_path, CASES[case]))


@pytest.mark.parametrize("act_fn", ACTIVATIONS)
def test_every_activation_of_peanut(bases: dict[str, Path], tmp_path: Path, act_fn: str) -> None:
    from peft import PeanutConfig

    config = PeanutConfig(**QKV, r=4, depth=1, act_fn=act_fn)
    compare(bases["llama"], make_adapter(bases["llama"], tmp_path, config)[0])


REFUSED_OPTIONS: dict[str, tuple[str, dict[str, Any], str]] = {
    "an activation that is not computed": ("peanut", {"act_fn": "xielu"}, "sets act_fn='xielu'"),
}


@pytest.mark.parametrize("name", REFUSED_OPTIONS)
def test_options_refused_by_name(bases: dict[str, Path], tmp_path: Path, name: str) -> None:
    case, settings, words = REFUSED_OPTIONS[name]
    base, end, _ = make(bases, tmp_path, CASES[case])
    change_config(end, **settings)
    with pytest.raises(UnsupportedMethodError, match=words):
        open_adapter(base, end)


@pytest.mark.parametrize("case", ["deft", "peanut"])
def test_a_base_of_another_shape_is_an_error(bases: dict[str, Path], tmp_path: Path, case: str) -> None:
    base, end, _ = make(bases, tmp_path, CASES[case])
    other = torch.ones(36, 36, dtype=torch.float64)
    with pytest.raises(CorruptFileError, match="the base weight 36 × 36"):
        open_adapter(base, end).matrices["model.layers.0.self_attn.q_proj"](other)
