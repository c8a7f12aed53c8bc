"""Which matrices are stored I × O, held against the classes of transformers' own modules."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from spectra.weights.storage.base import fingerprint
from spectra.weights.storage.conv1d import stored_transposed
from spectra.weights.storage.tensors import TensorStore, digest
from tests.builders import randn, write_model

TINY = {"n_embd": 24, "n_layer": 1, "n_head": 2, "vocab_size": 40}
# Model class, configuration class and settings of every family that has a Conv1D.
WITH: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", {**TINY, "add_cross_attention": True}),
    "gpt2, square": ("GPT2LMHeadModel", "GPT2Config", {**TINY, "n_inner": 24}),
    "openai": ("OpenAIGPTLMHeadModel", "OpenAIGPTConfig", TINY),
    "imagegpt": ("ImageGPTForCausalImageModeling", "ImageGPTConfig", {**TINY, "add_cross_attention": True}),
    "decision_transformer": (
        "DecisionTransformerModel",
        "DecisionTransformerConfig",
        {"hidden_size": 24, "n_layer": 1, "n_head": 2},
    ),
    "clvp": (
        "ClvpForCausalLM",
        "ClvpDecoderConfig",
        {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "num_mel_attn_blocks": 1},
    ),
}
# Families whose linear layers have the same names.
WITHOUT: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gpt_bigcode": ("GPTBigCodeForCausalLM", "GPTBigCodeConfig", TINY),
    "gpt_neo": (
        "GPTNeoForCausalLM",
        "GPTNeoConfig",
        {"hidden_size": 24, "num_layers": 1, "num_heads": 2, "attention_types": [[["global"], 1]]},
    ),
    "starcoder2": (
        "Starcoder2ForCausalLM",
        "Starcoder2Config",
        {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2},
    ),
}


# torch's note on GPT-BigCode's code.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")


def written(config: Any) -> dict[str, Any]:
    """Return what config.json holds."""
    found: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return found


def skeleton(model: str, config: str, settings: dict[str, Any]) -> Any:
    import transformers

    with torch.device("meta"):
        return getattr(transformers, model)(getattr(transformers, config)(**settings))


def facts(model: Any) -> tuple[dict[str, tuple[int, ...]], set[str]]:
    """Return the shape of each parameter, and the names of those of a Conv1D."""
    from transformers.pytorch_utils import Conv1D

    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    return shapes, {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, Conv1D)}


@pytest.mark.parametrize("family", WITH)
def test_the_matrices_of_every_conv1d_are_found(family: str) -> None:
    model = skeleton(*WITH[family])
    shapes, expected = facts(model)
    assert expected
    config = written(model.config)
    assert stored_transposed(shapes, config) == expected
    if family != "gpt2, square":
        assert stored_transposed(shapes, {}) == expected  # the biases tell
    without_biases = {name: shape for name, shape in shapes.items() if not name.endswith("bias")}
    assert stored_transposed(without_biases, config) == expected
    assert stored_transposed(without_biases, {}) == frozenset()


@pytest.mark.parametrize("family", WITHOUT)
def test_linear_layers_of_the_same_names_are_left(family: str) -> None:
    model = skeleton(*WITHOUT[family])
    shapes, expected = facts(model)
    assert not expected and any("c_fc" in name for name in shapes)
    assert stored_transposed(shapes, written(model.config)) == frozenset()


def test_a_model_of_two_families() -> None:
    from transformers import EncoderDecoderConfig, EncoderDecoderModel, GPT2Config, GPTBigCodeConfig

    parts = GPTBigCodeConfig(**TINY), GPT2Config(**TINY, add_cross_attention=True)
    config = EncoderDecoderConfig.from_encoder_decoder_configs(*parts)
    with torch.device("meta"):
        model = EncoderDecoderModel(config)
    shapes, expected = facts(model)
    assert {name.partition(".")[0] for name in expected} == {"decoder"}
    assert stored_transposed(shapes, written(config)) == expected


def test_no_other_family_of_the_installed_transformers_has_one() -> None:
    import transformers

    models = Path(transformers.__file__).parent / "models"
    users = {file.parent.name for file in models.glob("*/modeling_*.py") if re.search(r"= Conv1D\(", file.read_text())}
    assert users == {"gpt2", "openai", "imagegpt", "decision_transformer", "clvp"}


def gpt2_tensors() -> dict[str, torch.Tensor]:
    return {
        "wte.weight": randn(40, 24, seed=1),
        "h.0.attn.c_attn.weight": randn(24, 72, seed=2),
        "h.0.attn.c_attn.bias": randn(72, seed=3),
        "h.0.attn.c_proj.weight": randn(24, 24, seed=4),
        "h.0.attn.c_proj.bias": randn(24, seed=5),
    }


@pytest.mark.parametrize("shards", [1, 2])
def test_a_model_gives_outputs_by_inputs_and_its_files_stay_as_they_are(tmp_path: Path, shards: int) -> None:
    tensors = gpt2_tensors()
    store = TensorStore.open_model(write_model(tmp_path, tensors, shards=shards))
    assert store.transposed == {"h.0.attn.c_attn.weight", "h.0.attn.c_proj.weight"}
    assert store.shapes["h.0.attn.c_attn.weight"] == (72, 24)
    raw = store.as_stored()
    assert raw.transposed == frozenset() and raw.shapes["h.0.attn.c_attn.weight"] == (24, 72)
    for name, tensor in tensors.items():
        assert torch.equal(raw[name], tensor)
        assert torch.equal(store[name], tensor.T if name in store.transposed else tensor)
    assert fingerprint(tmp_path) == {name: digest(tensor) for name, tensor in tensors.items()}


def test_the_configuration_tells_and_a_broken_one_does_not(tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in gpt2_tensors().items() if not name.endswith("bias")}
    write_model(tmp_path, tensors)
    found = []
    for text in ('{"decoder": {"model_type": "gpt2"}}', '{"model_type": "gpt_bigcode"}', "{"):
        (tmp_path / "config.json").write_text(text)
        found.append(len(TensorStore.open_model(tmp_path).transposed))
    (tmp_path / "config.json").unlink()
    assert [*found, len(TensorStore.open_model(tmp_path).transposed)] == [2, 0, 0, 0]


def test_tensors_of_an_adapter_are_as_they_are(tmp_path: Path) -> None:
    save_file(gpt2_tensors(), tmp_path / "adapter_model.safetensors")
    assert TensorStore.open_file(tmp_path / "adapter_model.safetensors").transposed == frozenset()
