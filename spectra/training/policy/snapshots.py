"""Save snapshots: the trained weights of one step, in the format of peft or transformers."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spectra.runs.atomic import atomic_directory
from spectra.runs.layout import ADAPTER_WEIGHTS, MODEL_UPDATE, RunLayout
from spectra.training.distributed.shards import is_spread, whole_state
from spectra.training.policy.initial_factors import read_initial, stack
from spectra.training.policy.policy import ADAPTER
from spectra.weights.storage.base import resolve_base
from spectra.weights.storage.bit_differences import write_difference
from spectra.weights.storage.tensors import TensorStore

SHARED = "base_model."
MODULES = "base_model.model."


def save_snapshot(
    model: Any,
    layout: RunLayout,
    step: int,
    base: str,
    revision: str | None = None,
    *,
    as_lora: bool = False,
    writes: bool = True,
) -> Path:
    """Save the trained weights, atomically; a snapshot of the same step is replaced.

    An adapter becomes a directory that ``PeftModel.from_pretrained`` loads onto the original base model. A fully
    trained model is stored as the lossless bit difference from the base model; ``spectra export`` writes it as a model.
    Nothing is pickled. If FSDP or ZeRO shards the trained weights, every process must call this at the same step.

    Parameters
    ----------
    model
        A peft model, or a model in which every parameter trains.
    layout
        The run.
    step
        Optimizer steps completed.
    base, revision
        Name of the base model in the recipe, so that a run can be moved to another machine.
    as_lora
        Save A and B of a method that moves the base as the equivalent LoRA of rank 2r on the original base.
    writes
        Whether this process writes; exactly one must.

    Returns
    -------
    Path
        The snapshot's directory.

    Raises
    ------
    MissingInitialError
        With ``as_lora`` after step 0, if the run's step-0 snapshot is missing.
    UsageError
        If FSDP 1 shards the model.
    """
    if not writes and not is_spread(model):
        return layout.snapshot(step)
    whole = whole_state(model, keep=writes)
    if not writes:
        return layout.snapshot(step)
    with atomic_directory(layout.snapshot(step)) as directory:
        if hasattr(model, "peft_config"):
            state, config = _adapter(model, whole)
            if as_lora:
                initial = state if step == 0 else read_initial(layout.snapshot(0), stacked=True)
                state, config = stack(state, initial), _doubled(config)
            _save_adapter(state, config, directory, base, revision)
        else:
            _save_full(model, whole, directory, TensorStore.open_model(resolve_base(base, revision)))
        # safetensors lets only the owner read its files; give them the mode of the other files.
        mode = next(directory.glob("*.json")).stat().st_mode
        for file in directory.iterdir():
            file.chmod(mode)
    return layout.snapshot(step)


def _adapter(model: Any, whole: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Return the adapter's tensors in float32, and a copy of its configuration."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(model, whole, adapter_name=ADAPTER, save_embedding_layers=False)
    return {name: _float32(state[name]) for name in _distinct(state)}, copy.deepcopy(model.peft_config[ADAPTER])


def _distinct(state: Mapping[str, Any]) -> list[str]:
    """Return the names to save: for a tensor shared by all modules, one model-level name instead of one per module."""
    shared = {state[name].data_ptr() for name in state if name.startswith(SHARED) and not name.startswith(MODULES)}
    return [name for name in state if not name.startswith(MODULES) or state[name].data_ptr() not in shared]


def _doubled(config: Any) -> Any:
    config.r, config.lora_alpha = 2 * config.r, 2 * config.lora_alpha
    return config


def _save_adapter(state: Mapping[str, Any], config: Any, directory: Path, base: str, revision: str | None) -> None:
    from safetensors.torch import save_file

    # The file format does not allow shared tensors, so each module gets a copy.
    save_file({name: tensor.clone() for name, tensor in state.items()}, directory / ADAPTER_WEIGHTS, {"format": "pt"})
    config.base_model_name_or_path = base
    config.revision = revision
    config.inference_mode = True
    for name, value in vars(config).items():
        if isinstance(value, set):  # the order of a set differs between processes
            setattr(config, name, sorted(value))
    config.save_pretrained(directory)


def _save_full(model: Any, whole: Mapping[str, Any], directory: Path, base: TensorStore) -> None:
    state, seen = {}, set()
    for name, tensor in whole.items():
        if tensor.data_ptr() not in seen:  # tied weights are one tensor
            seen.add(tensor.data_ptr())
            state[name] = tensor
    write_difference(directory / MODEL_UPDATE, state, base)
    model.config.save_pretrained(directory)


def _float32(tensor: Any) -> Any:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.is_floating_point() else tensor).contiguous()
