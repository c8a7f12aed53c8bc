"""Write synthetic runs: a spectra run directory or that of an HF Trainer, with adapters or full checkpoints."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from spectra.analysis.synthetic.bases import Matrix
from spectra.analysis.synthetic.logs import Log
from spectra.analysis.synthetic.setting import Setting
from spectra.analysis.synthetic.updates import Factors, SyntheticUpdate
from spectra.runs.atomic import write_text
from spectra.runs.layout import ADAPTER_CONFIG, ADAPTER_WEIGHTS, MODEL_CONFIG, MODEL_WEIGHTS, TRAINER_STATE, RunLayout
from spectra.runs.manifest import BaseIdentity, Manifest, now
from spectra.runs.series import TRL
from spectra.weights.storage.base import fingerprint

_LOGGED_AS: Mapping[str, str] = {ours: theirs for theirs, ours in TRL.items()}


def write_base(directory: Path, base: Mapping[str, Matrix], setting: Setting) -> Path:
    """Write the base model: its matrices, and a frozen norm."""
    tensors = {f"{name}.weight": matrix.weight for name, matrix in base.items()}
    return _model(directory, {**tensors, "model.norm.weight": torch.ones(setting.width)}, setting)


def write_run(
    directory: Path,
    base_directory: Path,
    base: Mapping[str, Matrix],
    setting: Setting,
    update: SyntheticUpdate,
    log: Log | None,
) -> Path:
    """Write the run: snapshots and log."""
    own = RunLayout(directory)
    if setting.style == "spectra":
        _snapshot(own.snapshot(0), base_directory, base, setting, {n: _nothing(m) for n, m in base.items()})
    for step in setting.snapshots:
        where = own.snapshot(step) if setting.style == "spectra" else directory / f"checkpoint-{step}"
        _snapshot(where, base_directory, base, setting, update.factors(step))
    if setting.style == "spectra":
        _own(own, base_directory, base, setting, log)
    else:
        _state(directory / f"checkpoint-{setting.snapshots[-1]}", log)
    return directory


def _nothing(matrix: Matrix) -> Factors:
    rows, columns = matrix.weight.shape
    return torch.zeros(rows, 1, dtype=torch.float64), torch.ones(1, columns, dtype=torch.float64)


def _snapshot(
    where: Path, base_directory: Path, base: Mapping[str, Matrix], setting: Setting, factors: Mapping[str, Factors]
) -> None:
    if setting.stored == "full":
        tensors = {f"{name}.weight": base[name].weight + left @ right for name, (left, right) in factors.items()}
        _model(where, {**tensors, "model.norm.weight": torch.ones(setting.width)}, setting)
        return
    where.mkdir(parents=True)
    rank = max(left.shape[1] for left, _ in factors.values())
    config = {"peft_type": "LORA", "base_model_name_or_path": str(base_directory), "r": rank, "lora_alpha": rank}
    (where / ADAPTER_CONFIG).write_text(json.dumps(config), encoding="utf-8")
    tensors = {}
    for name, (left, right) in factors.items():
        missing = rank - left.shape[1]
        tensors[f"base_model.model.{name}.lora_B.weight"] = torch.nn.functional.pad(left, (0, missing)).float()
        tensors[f"base_model.model.{name}.lora_A.weight"] = torch.nn.functional.pad(right, (0, 0, 0, missing)).float()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, where / ADAPTER_WEIGHTS)


def _model(where: Path, tensors: Mapping[str, Tensor], setting: Setting) -> Path:
    where.mkdir(parents=True)
    (where / MODEL_CONFIG).write_text("{}", encoding="utf-8")
    dtype = getattr(torch, setting.dtype)
    save_file({name: tensor.to(dtype).contiguous() for name, tensor in tensors.items()}, where / MODEL_WEIGHTS)
    return where


def _own(
    layout: RunLayout, base_directory: Path, base: Mapping[str, Matrix], setting: Setting, log: Log | None
) -> None:
    identity = BaseIdentity(str(base_directory), None, fingerprint(base_directory))
    method = "full" if setting.stored == "full" else "lora"
    shapes = {name: list(matrix.weight.shape) for name, matrix in base.items()}
    Manifest(now(), {}, None, identity, method, "grpo", 0, {}, shapes).write(layout.manifest)
    write_text(layout.metrics, "".join(json.dumps(record) + "\n" for record in _records(log)))


def _state(checkpoint: Path, log: Log | None) -> None:
    history = [{_LOGGED_AS.get(name, name): value for name, value in record.items()} for record in _records(log)]
    (checkpoint / TRAINER_STATE).write_text(json.dumps({"log_history": history}), encoding="utf-8")


def _records(log: Log | None) -> list[dict[str, Any]]:
    if log is None:
        return []
    columns = {name: values.tolist() for name, values in log.columns.items()}
    return [
        {"step": step, **{name: values[at] for name, values in columns.items() if not math.isnan(values[at])}}
        for at, step in enumerate(log.steps.tolist())
    ]
