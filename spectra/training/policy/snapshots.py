"""Snapshots: the trained weights of one step, as they are kept, in the format that their own library loads."""

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
    """Save what trains, atomically; a snapshot of the same step is replaced.

    An adapter becomes a directory that ``PeftModel.from_pretrained`` loads onto the original base. A fully trained
    model becomes the difference of its bits from the base's, lossless; ``spectra export`` writes it as a model.
    Nothing is pickled. Where FSDP or ZeRO spread what trains, every process must call this at the same step: it is
    gathered from all of them.

    Parameters
    ----------
    model
        A peft model, or a model whose every parameter trains.
    layout
        The run.
    step
        Optimizer steps done.
    base, revision
        The base as the recipe names it, so that a run can move to another machine.
    as_lora
        Save A and B of a method that moved the base as the equal LoRA of rank 2r on the original base.
    writes
        Whether this process writes; of several, one does.

    Returns
    -------
    Path
        The snapshot's directory.

    Raises
    ------
    MissingInitialError
        With ``as_lora`` after step 0, if the run's step-0 snapshot is gone.
    UsageError
        If FSDP 1 sharded the model.
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
        # safetensors lets only the owner read its files; a run is as readable as the rest of its directory.
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
    """Return the names to save: of a tensor that all modules share, the model's own name and not one a module."""
    shared = {state[name].data_ptr() for name in state if name.startswith(SHARED) and not name.startswith(MODULES)}
    return [name for name in state if not name.startswith(MODULES) or state[name].data_ptr() not in shared]


def _doubled(config: Any) -> Any:
    config.r, config.lora_alpha = 2 * config.r, 2 * config.lora_alpha
    return config


def _save_adapter(state: Mapping[str, Any], config: Any, directory: Path, base: str, revision: str | None) -> None:
    from safetensors.torch import save_file

    # Modules may share a tensor, which the file format refuses: each gets its own.
    save_file({name: tensor.clone() for name, tensor in state.items()}, directory / ADAPTER_WEIGHTS, {"format": "pt"})
    config.base_model_name_or_path = base
    config.revision = revision
    config.inference_mode = True
    for name, value in vars(config).items():
        if isinstance(value, set):  # its order changes from process to process
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
