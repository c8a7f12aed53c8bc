"""Quantised bases are refused with the full-precision base to give."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from spectra.errors import BaseModelError
from spectra.runs.directory import Snapshot
from spectra.weights.storage.quantized import full_precision_name
from spectra.weights.storage.tensors import TensorStore
from spectra.weights.updates import open_updates
from tests.builders import lora_config, small_base, small_factors, write_adapter, write_model

NAMES = {
    "unsloth/Qwen2.5-7B-Instruct-bnb-4bit": "unsloth/Qwen2.5-7B-Instruct",
    "unsloth/Llama-3.2-1B-Instruct-unsloth-bnb-4bit": "unsloth/Llama-3.2-1B-Instruct",
    "Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4": "Qwen/Qwen2.5-7B-Instruct",
    "Qwen/Qwen2.5-7B-Instruct-AWQ": "Qwen/Qwen2.5-7B-Instruct",
    "TheBloke/Llama-2-7B-GPTQ": "TheBloke/Llama-2-7B",
    "neuralmagic/Meta-Llama-3-8B-quantized.w8a16": "neuralmagic/Meta-Llama-3-8B",
    "org/model-AWQ-4bit-128g": "org/model",
    "Qwen/Qwen2.5-7B-Instruct": None,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": None,
    "openai/gpt-oss-20b": None,
}


@pytest.mark.parametrize("name", NAMES)
def test_names(name: str) -> None:
    assert full_precision_name(name) == NAMES[name]


CODES = torch.zeros(4, 8, dtype=torch.int32)
PACKED: dict[str, tuple[dict[str, Any], dict[str, Tensor], str]] = {
    "gptq": ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, {}, r"quantized \(gptq\)"),
    "gptq tensors": (
        {},
        {"model.layers.0.mlp.up_proj.qweight": CODES},
        "it contains model.layers.0.mlp.up_proj.qweight",
    ),
    "4 bits": ({}, {"model.layers.0.mlp.up_proj.weight.absmax": CODES}, r"up_proj\.weight\.absmax"),
}


@pytest.mark.parametrize("case", PACKED)
def test_a_packed_base_is_refused(tmp_path: Path, case: str) -> None:
    config, tensors, words = PACKED[case]
    directory = write_model(tmp_path / "Tiny-7B-bnb-4bit", {"model.norm.weight": torch.ones(8)} | tensors)
    (directory / "config.json").write_text(json.dumps(config))
    adapter = write_adapter(tmp_path / "adapter", lora_config("b"), small_factors())
    with pytest.raises(BaseModelError, match=words) as refused:
        open_updates(Snapshot(1, adapter, "adapter"), TensorStore.open_model(directory), None)
    assert str(refused.value).endswith("pass its full-precision original with --base, likely Tiny-7B")


def test_a_cached_snapshot_is_known_by_its_hub_id(tmp_path: Path) -> None:
    directory = tmp_path / "models--org--Tiny-AWQ" / "snapshots" / "0123abcd"
    write_model(directory, {"model.layers.0.mlp.up_proj.qweight": CODES})
    adapter = write_adapter(tmp_path / "adapter", lora_config("b"), small_factors())
    with pytest.raises(BaseModelError, match="likely org/Tiny$"):
        open_updates(Snapshot(1, adapter, "adapter"), TensorStore.open_model(directory), None)


def test_a_broken_configuration_leaves_it_to_the_tensors(tmp_path: Path) -> None:
    directory = small_base(tmp_path / "base")
    (directory / "config.json").write_text("{")
    adapter = write_adapter(tmp_path / "adapter", lora_config("b"), small_factors())
    assert len(open_updates(Snapshot(1, adapter, "adapter"), TensorStore.open_model(directory), None).matrices) == 6
