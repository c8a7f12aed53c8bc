"""Detect drift of the frozen weights during training.

Trainers that send merged weights to a sampler add ΔW to the frozen weights and subtract it again at every step. In half
precision this changes them, and adapter snapshots do not show it. Digests of all frozen tensors are computed at the
start of training and at each snapshot. Only if one differs is the distance to the base on disk measured, so that no
copy is kept in memory. A resumed run rebuilds its frozen weights, and their digests, from the base and its step 0.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from spectra.runs.layout import ADAPTER_WEIGHTS, RunLayout
from spectra.training.distributed.shards import is_sharded
from spectra.training.loop.callbacks import Callback
from spectra.training.methods import find_method
from spectra.training.policy.initial_factors import read_initial
from spectra.training.policy.policy import ADAPTER
from spectra.training.recipe.recipe import Recipe
from spectra.weights.storage.tensors import TensorStore, digest

_MODEL_PREFIX = "base_model.model."
_WRAPPED = ".base_layer"


class FrozenDriftCallback(Callback):
    """Logs ``frozen_drift``: ‖W − W_initial‖/‖W_initial‖ over the frozen tensors that changed, 0 if none did.

    Parameters
    ----------
    recipe
        The run's recipe.
    layout
        The run.
    base
        Directory of the base weights.
    """

    def __init__(self, recipe: Recipe, layout: RunLayout, base: Path) -> None:
        self._steps = set(recipe.snapshots.schedule(recipe.steps))
        self._method, self._dtype = find_method(recipe.method.name), recipe.model.dtype
        self._layout, self._base = layout, base
        self._digests: dict[str, str] = {}
        self._drift: float | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, *, model: Any, **kwargs: Any) -> None:
        """Compute the digests of the frozen weights, unless they are sharded."""
        if is_sharded(model):
            return
        self._digests = {name: digest(_on_cpu(tensor)) for name, tensor in frozen(model)}

    def on_step_end(self, args: Any, state: Any, control: Any, *, model: Any, **kwargs: Any) -> None:
        """Compare the digests at the steps of the snapshots."""
        if self._digests and state.global_step in self._steps:
            self._drift = self.measure(model)

    def on_log(self, args: Any, state: Any, control: Any, *, logs: dict[str, Any], **kwargs: Any) -> None:
        """Add the drift to the step's record."""
        if self._drift is not None and "train_runtime" not in logs:
            logs["frozen_drift"], self._drift = self._drift, None

    def measure(self, model: Any) -> float:
        """Return the drift since the start of training; NaN if the original values are not in the files of the run."""
        changed = {name: tensor for name, tensor in frozen(model) if digest(_on_cpu(tensor)) != self._digests.get(name)}
        if not changed:
            return 0.0
        original = self._original(model, changed)
        distance = sum(_square(tensor, original[name]) for name, tensor in changed.items() if name in original)
        size = sum(_square(tensor) for tensor in original.values())
        return math.sqrt(distance / size) if size > 0 else math.nan

    def _original(self, model: Any, names: Mapping[str, Any]) -> dict[str, Any]:
        """Return the original values of these frozen tensors, as far as they come from the base."""
        import torch

        store, dtype = TensorStore.open_model(self._base), getattr(torch, self._dtype)
        initial = self._initial()
        layers = dict(model.named_modules())
        found = {}
        for name in names:
            parameter = name.removeprefix(_MODEL_PREFIX).replace(_WRAPPED, "")
            if parameter not in store:
                continue
            weight = store[parameter].to(dtype)
            layer = layers.get(name.removesuffix(".weight").removesuffix(_WRAPPED))
            key = f"{_MODEL_PREFIX}{parameter.removesuffix('.weight')}"
            if initial and f"{key}.lora_A.weight" in initial and layer is not None:
                removed = initial[f"{key}.lora_B.weight"] @ initial[f"{key}.lora_A.weight"] * layer.scaling[ADAPTER]
                weight = (weight.float() - removed).to(dtype)
            weight = weight.T if parameter in store.transposed else weight  # as the parameter is oriented
            if weight.shape == _on_cpu(names[name]).shape:
                found[name] = weight
        return found

    def _initial(self) -> dict[str, Any]:
        """Return A₀ and B₀ of a method that moves the base; empty for other methods."""
        directory = self._layout.snapshot(0)
        if not self._method.facts.moves_base or not (directory / ADAPTER_WEIGHTS).exists():
            return {}
        return read_initial(directory, stacked=self._method.facts.saved_as_lora)


def frozen(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield the parameters that do not train, by name."""
    return ((name, parameter.detach()) for name, parameter in model.named_parameters() if not parameter.requires_grad)


def _on_cpu(tensor: Any) -> Any:
    return tensor.cpu()


def _square(tensor: Any, other: Any = None) -> float:
    values = _on_cpu(tensor).double()
    return float(((values if other is None else values - other.double()) ** 2).sum())
