"""Export a snapshot as a full model: W + ΔW, summed in float64 and rounded once."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from spectra.errors import UsageError
from spectra.runs.atomic import atomic_directory, read_json, write_json
from spectra.runs.layout import MODEL_CONFIG, MODEL_WEIGHTS
from spectra.weights.storage.tensors import TensorStore
from spectra.weights.updates import Updates, module_name

# Files of the base's directory that tokenizer and generation need.
_COMPANIONS = ("*.json", "*.model", "*.txt", "*.jinja")


def export_model(updates: Updates, base: TensorStore, directory: Path, out: Path, dtype: torch.dtype) -> Path:
    """Write a model that ``AutoModelForCausalLM.from_pretrained`` loads.

    Parameters
    ----------
    updates
        The snapshot's updates. For a full checkpoint, W + (W' − W) in float64 is W' bit for bit.
    base
        The base's tensors.
    directory
        The base's directory, whose configuration and tokenizer are copied.
    out
        Directory of the model; new or empty.
    dtype
        Type of the floating-point weights.

    Raises
    ------
    UsageError
        If ``out`` is not empty.
    UnsupportedMethodError
        If the shape of a tensor differs from the base.
    """
    updates.require_shapes()
    if out.exists() and any(out.iterdir()):
        raise UsageError("is not empty", where=out, hint="choose a new directory")
    with atomic_directory(out) as temporary:
        for pattern in _COMPANIONS:
            for file in sorted(directory.glob(pattern)):
                if not file.name.endswith(".index.json"):
                    shutil.copy(file, temporary / file.name)
        save_file(
            {name: _moved(name, base, updates, dtype) for name in base},
            temporary / MODEL_WEIGHTS,
            {"format": "pt"},
        )
        config = read_json(temporary / MODEL_CONFIG)
        write_json(temporary / MODEL_CONFIG, {**config, "dtype": str(dtype).removeprefix("torch.")})
    return out


def _moved(name: str, base: TensorStore, updates: Updates, dtype: torch.dtype) -> Tensor:
    weight, module = base[name], module_name(name)
    if not weight.is_floating_point():
        return weight
    weight = weight.double()
    if module in updates.matrices:
        update = updates.matrices[module](weight.flatten(1)).dense()
        weight = weight + update.reshape(weight.shape)
    elif module in updates.vectors:
        weight = weight + updates.vectors[module](weight)
    if name in base.transposed:  # the model's code stores it I × O
        weight = weight.T
    return weight.to(dtype).contiguous()
