"""Gather models that FSDP 2 or ZeRO shards over processes, for saving and for generation.

DeepSpeed trains float32 master weights, which its stages 2 and 3 shard; in a bfloat16 run the visible model is rounded.
The master weights are saved.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from spectra.errors import UsageError
from spectra.training.compat.deepspeed import gathered, has_master, is_partitioned


def is_sharded(model: Any) -> bool:
    """Return whether a process holds only part of some parameter.

    Raises
    ------
    UsageError
        If FSDP 1 shards it, which flattens parameters.
    """
    if any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()):
        hint = "set fsdp_version: 2 in the accelerate configuration"
        raise UsageError("snapshots of a model under FSDP 1 are not supported", hint=hint)
    return any(map(_is_shard, model.parameters()))


def is_spread(model: Any) -> bool:
    """Return whether all processes must take part to save the model: parameters or master weights are sharded.

    Raises
    ------
    UsageError
        If FSDP 1 shards it.
    """
    return is_sharded(model) or any(map(has_master, model.parameters()))


def whole_state(model: Any, *, keep: bool) -> dict[str, Any]:
    """Return the model's state dict, with full tensors in place of shards for everything that a snapshot saves.

    For DeepSpeed these are the float32 master weights. Frozen tensors outside the adapter stay as they are. If the
    model is sharded, every process must call this.

    Parameters
    ----------
    model
        A model, with or without an adapter.
    keep
        Whether this process keeps the gathered tensors, in main memory; only the writing process needs them.

    Raises
    ------
    UsageError
        If FSDP 1 shards it.
    """
    if not is_spread(model):
        return dict(model.state_dict())
    prefix = getattr(getattr(model, "base_model", None), "prefix", None)
    state: dict[str, Any] = {}
    found: dict[int, Any] = {}  # tied weights are one tensor under several names
    for name, tensor in model.state_dict(keep_vars=True).items():
        in_parts = _is_shard(tensor) or has_master(tensor)
        if in_parts and (tensor.requires_grad or (prefix is not None and prefix in name)):
            if id(tensor) not in found:
                found[id(tensor)] = _gather(tensor, keep)
            state[name] = found[id(tensor)]
        else:
            state[name] = tensor.detach()
    return state


@contextmanager
def generating(model: Any, trainer: Any) -> Iterator[Any]:
    """Yield the model ready to generate: under ZeRO-3 gathered, and without the hooks for training.

    Parameters
    ----------
    model
        The model that the trainer passes to callbacks.
    trainer
        TRL's trainer; used only under ZeRO-3.
    """
    if not any(map(is_partitioned, model.parameters())):
        yield model
        return
    from trl.models import unwrap_model_for_generation

    with unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator) as whole:
        yield whole


def _is_shard(tensor: Any) -> bool:
    return hasattr(tensor, "full_tensor") or is_partitioned(tensor)  # FSDP 2 makes DTensors


def _gather(tensor: Any, keep: bool) -> Any:
    if hasattr(tensor, "full_tensor"):
        whole = tensor.detach().full_tensor()
        return whole.cpu() if keep else None
    return gathered(tensor, keep=keep)
