"""A tiny Llama, and adapters on it that peft itself makes, trains a little and saves."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a randomly initialised Llama: 2 layers, hidden 32, grouped keys and values."""
    return write_llama(tmp_path_factory.mktemp("llama"))


def write_llama(directory: Path, **settings: Any) -> Path:
    """Write a tiny random Llama; settings override its configuration."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(**{"vocab_size": 40, "num_hidden_layers": 2, **shape, **settings})
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def bases(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Directories: the Llama, one with biases, the first in bfloat16, and a GPT-2, whose Conv1D stores I × O."""
    from transformers import GPT2Config, GPT2LMHeadModel

    where = tmp_path_factory.mktemp("bases")
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 40, "n_positions": 16}
    GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=0)).save_pretrained(where / "gpt2")
    write_llama(where / "biased", attention_bias=True, mlp_bias=True)
    for name in ("gpt2", "biased"):
        change_file(where / name / "model.safetensors", _with_biases)
    shutil.copytree(llama, where / "half")
    config = where / "half" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "bfloat16"}))
    change_file(where / "half" / "model.safetensors", lambda tensors: {k: t.bfloat16() for k, t in tensors.items()})
    return {"llama": llama, **{name: where / name for name in ("gpt2", "biased", "half")}}


def _with_biases(tensors: dict[str, Any]) -> dict[str, Any]:
    import torch

    generator = torch.Generator().manual_seed(3)
    return {
        key: torch.randn(tensor.shape, generator=generator) / 10 if key.endswith("bias") else tensor
        for key, tensor in tensors.items()
    }


def change_file(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Write the tensors of a safetensors file again, changed."""
    from safetensors.torch import load_file, save_file

    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def train_like(model: Any, size: float = 1e-3) -> None:
    """Move every trainable number a little, as a few steps of training would."""
    import torch

    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += size * torch.randn(parameter.shape, generator=generator)


def make_adapter(base: Path, out: Path, config: Any, *, size: float = 1e-3) -> tuple[Path, Path]:
    """Return the directories of a trained adapter of any peft configuration and of its start, saved by peft."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    model.save_pretrained(out / "start")
    train_like(model, size)
    model.save_pretrained(out / "end")
    return out / "end", out / "start"
