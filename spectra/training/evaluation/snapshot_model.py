"""Rebuild the full model of a snapshot (base + ΔW) for evaluation.

For methods that move the base, the adapter on the original base is not the trained model, and a loader that combines
them evaluates another model. Here every snapshot becomes W + ΔW with the exact ΔW of ``spectra.weights``, in float64,
rounded once. A method without ΔW is loaded by peft, onto the base, which it does not move.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from spectra.config import load
from spectra.errors import BaseModelError, UnsupportedMethodError
from spectra.linalg.operators.basic import Dense, Operator
from spectra.runs.directory import RunDirectory, Snapshot
from spectra.runs.layout import (
    ADAPTER_CONFIG,
    ADAPTER_PICKLE,
    MODEL_CONFIG,
    MODEL_INDEX,
    MODEL_WEIGHTS,
    RunLayout,
)
from spectra.training.compat.library_warnings import harmless_ignored
from spectra.training.methods import find_method
from spectra.training.policy.initial_factors import read_initial
from spectra.training.recipe.recipe import Recipe
from spectra.weights.export.model import export_model
from spectra.weights.opened_run import OpenedRun
from spectra.weights.readers.adapter import UpdateFunction
from spectra.weights.storage.base import fingerprint
from spectra.weights.storage.tensors import TensorStore, file_digest
from spectra.weights.updates import Updates

_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", ADAPTER_PICKLE, ADAPTER_CONFIG, MODEL_CONFIG)
_TOKENIZERS = ("tokenizer_config.json", "tokenizer.json")


@dataclass(frozen=True)
class EvaluatedModel:
    """A snapshot and its base model.

    Attributes
    ----------
    opened
        The run that it belongs to, with its base model and initialization.
    snapshot
        Adapter or full weights.
    base
        Directory of the base model; None if none is named, because full weights do not need one.
    """

    opened: OpenedRun
    snapshot: Snapshot
    base: Path | None

    @classmethod
    def of(cls, opened: OpenedRun, step: int | None = None) -> "EvaluatedModel":
        """Find the snapshot of a step (None is the last) and its base.

        Raises
        ------
        UsageError
            If there is no such step.
        BaseModelError
            If the base that is named is not found.
        """
        base = None if opened.base_name is None else opened.base_dir
        return cls(opened, opened.snapshot(step), base)

    @property
    def run(self) -> RunDirectory:
        """The run as recognized."""
        return self.opened.run

    @property
    def step(self) -> int:
        """Optimizer step of the snapshot."""
        return self.snapshot.step

    @cached_property
    def recipe(self) -> Recipe | None:
        """Recipe, for runs trained by spectra."""
        path = RunLayout(self.run.path).recipe
        return load(Recipe, path) if self.run.manifest is not None and path.exists() else None

    def identity(self) -> dict[str, str | None]:
        """Return what identifies this model: digests of the snapshot's files and of the base model's tensors.

        Raises
        ------
        BaseModelError
            If the base model is not the one that the run was trained on.
        """
        found = {} if self.base is None else fingerprint(self.opened.base)
        initial = self.opened.given_initial
        self._require_same_base(found)
        return {
            "snapshot_sha256": _files_digest(self.snapshot.path),
            "initial_sha256": None if initial is None else _files_digest(initial),
            "base": self.opened.base_name,
            "base_sha256": None if self.base is None else _joined(found),
        }

    @contextmanager
    def directory(self, dtype: torch.dtype) -> Iterator[Path]:
        """Yield a directory with the full model for transformers and vLLM; a temporary one if it has to be built.

        Raises
        ------
        SpectraError
            If ΔW cannot be read exactly.
        """
        if self._is_whole:
            yield self.snapshot.path
            return
        with TemporaryDirectory(prefix="spectra-eval-") as scratch:
            yield export_model(self._updates, self._store, self.opened.base_dir, Path(scratch) / "model", dtype)

    @contextmanager
    def loaded(self, dtype: torch.dtype, device: str) -> Iterator[Any]:
        """Yield the model, loaded by transformers; raises as :meth:`directory`."""
        from transformers import AutoModelForCausalLM

        try:
            with self.directory(dtype) as where:
                model = AutoModelForCausalLM.from_pretrained(where, dtype=dtype, trust_remote_code=False)
        except UnsupportedMethodError:
            if self.snapshot.kind == "full":  # peft cannot load it
                raise
            model = self._by_peft(dtype)
        yield model.to(device).eval()

    def tokenizer(self) -> Any:
        """Return the tokenizer: of full weights if they have one, else of the base model."""
        from transformers import AutoTokenizer

        own = self._is_whole and any((self.snapshot.path / name).exists() for name in _TOKENIZERS)
        where = self.snapshot.path if own else self.opened.base_dir
        return AutoTokenizer.from_pretrained(where, padding_side="left", trust_remote_code=False)

    def rounding(self, dtype: torch.dtype) -> float:
        """Return ‖round(W + ΔW) − (W + ΔW)‖ / ‖ΔW‖ over all changed matrices: the part of ΔW lost in a dtype.

        0 if nothing changed, and NaN for full weights and methods without ΔW.
        """
        try:
            updates = None if self._is_whole else self._updates
        except UnsupportedMethodError:
            updates = None
        if updates is None:
            return float("nan")
        lost = size = 0.0
        for module, function in updates.matrices.items():
            name = f"{module}.weight"
            if name not in self._store:
                continue
            weight = self._store[name].double()
            change = function(weight.flatten(1)).dense().reshape(weight.shape)
            moved = weight + change
            lost += float(torch.sum((moved.to(dtype).double() - moved) ** 2))
            size += float(torch.sum(change**2))
        return (lost / size) ** 0.5 if size else 0.0

    @property
    def _in_bfloat16(self) -> bool:
        """Whether the base was rounded for training; full fine-tuning in float32 does not round it."""
        if self.recipe is None or self.recipe.model.dtype != "bfloat16":
            return False
        return (
            find_method(self.recipe.method.name).config is not None or self.recipe.model.trainable_dtype == "bfloat16"
        )

    @property
    def _is_whole(self) -> bool:
        return self.snapshot.kind == "full" and any(
            (self.snapshot.path / name).exists() for name in (MODEL_WEIGHTS, MODEL_INDEX)
        )

    @cached_property
    def _store(self) -> TensorStore:
        """Tensors of the base model as used in training."""
        base = self.opened.base
        return _Rounded(base.files, base.where, open_files=base.open_files) if self._in_bfloat16 else base

    @cached_property
    def _updates(self) -> Updates:
        updates = self.opened.updates(self.step)
        if updates.skipped:
            module, reason = next(iter(updates.skipped.items()))
            raise UnsupportedMethodError(f"{module} is not among the weights: {reason}", where=self.snapshot.path)
        if self.recipe is not None and self._in_bfloat16:
            return self._with_frozen_rounding(updates, self.recipe)
        return updates

    def _with_frozen_rounding(self, updates: Updates, recipe: Recipe) -> Updates:
        """Add the bfloat16 rounding error of the moved base: the policy trained with it, and it is as large as ΔW.

        The frozen weight is round(W − s·B₀A₀), so W + ΔW lacks the rounding error.
        """
        method = find_method(recipe.method.name)
        if not method.facts.moves_base:
            return updates
        factors = read_initial(RunLayout(self.run.path).snapshot(0), stacked=method.facts.saved_as_lora)
        scale = _scale(self.snapshot)
        matrices: dict[str, UpdateFunction] = {}
        for module, function in updates.matrices.items():
            names = [f"base_model.model.{module}.lora_{side}.weight" for side in "BA"]
            if all(name in factors for name in names):
                b, a = (factors[name].float() for name in names)
                function = partial(_rounded_too, function, (b @ a) * scale)
            matrices[module] = function
        return replace(updates, matrices=matrices)

    def _by_peft(self, dtype: torch.dtype) -> Any:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        trained_on = torch.bfloat16 if self._in_bfloat16 else dtype
        base = AutoModelForCausalLM.from_pretrained(self.opened.base_dir, dtype=trained_on, trust_remote_code=False)
        with harmless_ignored():
            return PeftModel.from_pretrained(base.to(dtype), self.snapshot.path)

    def _require_same_base(self, found: Mapping[str, str]) -> None:
        then = {} if self.run.manifest is None else self.run.manifest.base.fingerprints
        changed = [name for name in {**then, **found} if then and then.get(name) != found.get(name)]
        if changed:
            fault = f"is not the base model that the run was trained on ({changed[0]} differs)"
            raise BaseModelError(fault, where=self.base, hint="pass that one with --base")


class _Rounded(TensorStore):
    """Base model that was loaded in bfloat16 for training."""

    def __getitem__(self, name: str) -> Tensor:
        tensor = super().__getitem__(name)
        return tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor


def _rounded_too(function: UpdateFunction, removed: Tensor, weight: Tensor) -> Operator:
    frozen = (weight.float() - removed).to(torch.bfloat16).double()
    return Dense(function(weight).dense() + frozen - (weight - removed.double()))


def _scale(snapshot: Snapshot) -> float:
    config = snapshot.config
    if config.get("rank_pattern") or config.get("alpha_pattern") or config.get("fan_in_fan_out"):
        raise UnsupportedMethodError("the rounding error of its frozen weights is not known", where=snapshot.path)
    rank = float(config["r"])
    return float(config["lora_alpha"]) / (rank**0.5 if config.get("use_rslora") else rank)


def _files_digest(directory: Path) -> str:
    """Return a digest of the weights in a directory, ignoring the trainer's state."""
    files = {path for pattern in _WEIGHTS for path in directory.glob(pattern)}
    return _joined({path.name: file_digest(path) for path in files})


def _joined(digests: Mapping[str, str]) -> str:
    lines = "".join(f"{name} {value}\n" for name, value in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
