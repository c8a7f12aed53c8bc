"""Small models, adapters and run directories, made by the real libraries where one writes the format."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from spectra.runs.layout import RunLayout
from spectra.runs.manifest import BaseIdentity, Manifest, now
from spectra.runs.snapshots import Snapshot
from spectra.weights.readers.adapter import Adapter
from spectra.weights.readers.families.lora import LORA
from spectra.weights.storage.base import fingerprint

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def matrix(rows: int, columns: int, *, condition: float = 10.0, seed: int = 0) -> Tensor:
    """Return a float64 matrix with log-spaced singular values of the given condition number."""
    generator = torch.Generator().manual_seed(seed)
    q = min(rows, columns)
    u = torch.linalg.qr(torch.randn(rows, q, generator=generator, dtype=torch.float64))[0]
    v = torch.linalg.qr(torch.randn(columns, q, generator=generator, dtype=torch.float64))[0]
    end = -torch.log10(torch.tensor(condition, dtype=torch.float64)).item()
    return (u * torch.logspace(0, end, q, dtype=torch.float64)) @ v.T


def randn(*shape: int, seed: int = 0) -> Tensor:
    """Return standard normal float64 numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def write_model(directory: Path, tensors: Mapping[str, Tensor], *, shards: int = 1) -> Path:
    """Write a model directory from tensors, as one file or as shards with an index."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text("{}")
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    if shards == 1:
        save_file(tensors, directory / "model.safetensors")
        return directory
    names = sorted(tensors)
    weight_map = {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        mine = names[number::shards]
        save_file({name: tensors[name] for name in mine}, directory / file)
        weight_map |= dict.fromkeys(mine, file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return directory


def small_base(directory: Path, *, layers: int = 2, width: int = 24, seed: int = 0, dtype: Any = torch.float32) -> Path:
    """Write a base with q_proj (square), up_proj (tall), down_proj (wide) and a norm in each layer."""
    tensors: dict[str, Tensor] = {}
    for layer in range(layers):
        prefix, at = f"model.layers.{layer}", seed + 10 * layer
        tensors[f"{prefix}.self_attn.q_proj.weight"] = matrix(width, width, condition=50, seed=at)
        tensors[f"{prefix}.mlp.up_proj.weight"] = matrix(2 * width, width, condition=50, seed=at + 1)
        tensors[f"{prefix}.mlp.down_proj.weight"] = matrix(width, 2 * width, condition=50, seed=at + 2)
        tensors[f"{prefix}.input_layernorm.weight"] = torch.ones(width)
    return write_model(directory, {name: tensor.to(dtype) for name, tensor in tensors.items()})


def lora_config(base: str, *, r: int = 4, alpha: float = 8, **settings: Any) -> dict[str, Any]:
    """Return the part of an adapter_config.json that readers need."""
    return {"peft_type": "LORA", "base_model_name_or_path": base, "r": r, "lora_alpha": alpha, **settings}


def write_adapter(directory: Path, config: Mapping[str, Any], factors: Mapping[str, tuple[Tensor, Tensor]]) -> Path:
    """Write a LoRA adapter from (B, A) a module, as peft spells it."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "adapter_config.json").write_text(json.dumps(config))
    tensors = {}
    for module, (b, a) in factors.items():
        tensors[f"base_model.model.{module}.lora_B.weight"] = b.float().contiguous()
        tensors[f"base_model.model.{module}.lora_A.weight"] = a.float().contiguous()
    save_file(tensors, directory / "adapter_model.safetensors")
    return directory


def open_adapter(directory: Path) -> Adapter:
    """Open a LoRA adapter."""
    return Adapter.open(Snapshot(0, directory, "adapter"), LORA)


def small_factors(*, layers: int = 2, width: int = 24, r: int = 4, scale: float = 1e-2, seed: int = 0) -> Any:
    """Return random (B, A) for the matrices of :func:`small_base`."""
    shapes = {
        "self_attn.q_proj": (width, width),
        "mlp.up_proj": (2 * width, width),
        "mlp.down_proj": (width, 2 * width),
    }
    return {
        f"model.layers.{layer}.{name}": (
            randn(rows, r, seed=seed + 7 * layer + number) * scale,
            randn(r, columns, seed=seed + 100 + 7 * layer + number),
        )
        for layer in range(layers)
        for number, (name, (rows, columns)) in enumerate(shapes.items())
    }


def own_run(directory: Path, base: Path, *, steps: tuple[int, ...] = (0, 2, 4), method: str = "lora") -> Path:
    """Write a run directory of ours with LoRA snapshots that grow, and rising rewards."""
    layout = RunLayout(directory)
    identity = BaseIdentity(str(base), None, fingerprint(base))
    shapes = {"lora_A": [4, 24], "lora_B": [24, 4]}
    Manifest(now(), {"torch": "x"}, None, identity, method, "dapo", 0, {"cores": 2}, shapes).write(layout.manifest)
    for step in steps:
        write_adapter(layout.snapshot(step), lora_config(str(base)), small_factors(scale=1e-3 * step))
    rewards = [{"step": step, "reward": 0.2 + 0.01 * step + 0.01 * (step % 3)} for step in range(1, 41)]
    layout.metrics.write_text("".join(json.dumps(record) + "\n" for record in rewards))
    return directory


def trainer_run(directory: Path, base: Path, *, steps: tuple[int, ...] = (2, 10)) -> Path:
    """Write an HF Trainer directory: checkpoint-N with an adapter and trainer_state.json."""
    for step in steps:
        checkpoint = write_adapter(
            directory / f"checkpoint-{step}", lora_config(str(base)), small_factors(scale=1e-3 * step)
        )
        history = [{"step": at, "reward": 0.1 * at, "frac_reward_zero_std": 0.5} for at in range(1, step + 1)]
        state = {"global_step": step, "log_history": history}
        (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    return directory
