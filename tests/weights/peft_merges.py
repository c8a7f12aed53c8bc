"""Adapters of the LoRA family, what peft's merge changes, and the comparison of an update with it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spectra.runs.directory import Snapshot
from spectra.weights.initialization.kinds import AdapterOffset
from spectra.weights.storage.tensors import TensorStore
from spectra.weights.updates import Updates, open_updates
from tests.builders import TARGETS, open_adapter

# What a few rounding errors of float64 leave, and of float32 where peft computes its merge in it.
EXACT, SINGLE = 1e-12, 1e-6
# The merge itself is rounded: to float64 of W, whatever the size of ΔW.
ROUNDING = 1e-15


def merged_differences(base: Path, adapter: Path) -> dict[str, Tensor]:
    """Return merged minus base of every parameter that the merge changes, in float64.

    The adapter is put on the base in its stored precision, as a user does, and all is widened before the merge.
    """
    from peft import PeftModel

    original = {name: tensor.double() for name, tensor in load(base).state_dict().items()}
    merged = PeftModel.from_pretrained(load(base), str(adapter)).double().merge_and_unload().state_dict()
    differences = {name: merged[name] - tensor for name, tensor in original.items()}
    return {name: difference for name, difference in differences.items() if float(difference.abs().max()) > 0}


def load(base: Path) -> Any:
    """Return the model of a directory in its stored precision."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base, dtype="auto")


def updates_of(end: Path, base: Path, start: Path | None = None) -> tuple[Updates, TensorStore]:
    store = TensorStore.open_model(base)
    began = None if start is None else AdapterOffset("saved before training", open_adapter(start))
    return open_updates(Snapshot(1, end, "adapter"), store, began), store


def check(updates: Updates, store: TensorStore, differences: dict[str, Tensor], tolerance: float) -> None:
    """Compare every matrix and vector with the merged minus the base parameter; nothing that changed may be missing."""
    functions: dict[str, Callable[[Tensor], Any]] = {**updates.matrices, **updates.vectors}
    by_parameter = {f"{name}.weight" if f"{name}.weight" in store else name: at for name, at in functions.items()}
    assert set(differences) & set(store) <= set(by_parameter)
    for name, function in by_parameter.items():
        weight = store[name].double()
        found = function(weight) if weight.ndim == 1 else function(weight).dense()
        expected = differences.get(name, torch.zeros_like(weight))
        if name in store.transposed:  # the merge has it as the model's code does
            expected = differences[name].T if name in differences else expected
        error = float(torch.linalg.vector_norm(found - expected.reshape(found.shape)))
        assert error <= tolerance * float(torch.linalg.vector_norm(expected)) + ROUNDING * float(weight.norm())


def lora(settings: dict[str, Any]) -> Any:
    from peft import LoraConfig
    from peft.tuners.lora import config as options

    classes = {
        "velora_config": options.VeloraConfig,
        "monteclora_config": options.MontecloraConfig,
        "kasa_config": options.KasaConfig,
        "use_bdlora": options.BdLoraConfig,
    }
    made = {key: classes[key](**value) if key in classes else value for key, value in settings.items()}
    return LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": TARGETS, "task_type": "CAUSAL_LM", **made})


def moving(name: str, settings: dict[str, Any]) -> Any:
    from peft.tuners.lora.config import CordaConfig, LoraGAConfig

    special = {"corda": {"corda_config": CordaConfig()}, "lora_ga": {"lora_ga_config": LoraGAConfig()}}
    return lora({"init_lora_weights": name, **special.get(name, {}), **settings})


def change_config(adapter: Path, **settings: Any) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
