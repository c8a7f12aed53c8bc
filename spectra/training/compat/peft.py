"""peft: merging that leaves the frozen weights exact, and AdaLoRA's scores in the optimizer's state.

Tested with peft 0.21. Upstream: trl#6688 (merging drifts in half precision, open); peft#432 and peft#1327 (what AdaLoRA
leaves to its users).
"""

import warnings
from collections.abc import MutableMapping
from typing import Any

_SCORES = ("ipt", "exp_avg_ipt", "exp_avg_unc")


def keep_frozen_exact(model: Any) -> None:
    """Make ``merge_adapter`` and ``unmerge_adapter`` of a peft model leave its frozen weights bit-identical.

    peft merges by adding ΔW to the frozen weights in their own dtype and unmerges by subtracting it: in half precision
    the result differs from the original, and over a run the base drifts. Here the frozen weights are kept while they
    are merged and put back. This costs one more copy of the adapted base weights while they are merged.

    Parameters
    ----------
    model
        A ``PeftModel``; its methods are replaced on the instance. A model without an adapter merges nothing, and is
        left as it is.
    """
    if not hasattr(model, "peft_config"):
        return
    tuner = model.base_model
    merge, unmerge = tuner.merge_adapter, tuner.unmerge_adapter
    kept: list[tuple[Any, str, Any]] = []

    def exact_merge(*args: Any, **kwargs: Any) -> None:
        kept[:] = [(layer, name, tensor.detach().clone()) for layer, name, tensor in _adapted(model)]
        merge(*args, **kwargs)

    def exact_unmerge() -> None:
        with warnings.catch_warnings():
            # Some methods warn that unmerging is inexact; what it leaves is overwritten.
            warnings.simplefilter("ignore", UserWarning)
            unmerge()
        for layer, name, before in kept:
            layer.get_parameter(name).data.copy_(before)
        kept.clear()

    tuner.merge_adapter, tuner.unmerge_adapter = exact_merge, exact_unmerge


def prune_ranks(tuner: Any, adapter: str, step: int, state: MutableMapping[str, Any]) -> None:
    """Call AdaLoRA's ``update_and_allocate`` with importance scores and masks that are kept in ``state``.

    peft keeps them in its allocator and its configuration, where no checkpoint has them.

    Parameters
    ----------
    tuner
        An ``AdaLoraModel``, with the gradients of the step.
    adapter
        Name of the adapter.
    step
        The optimizer step, from 1.
    state
        Read and written; empty before the first step.
    """
    config, allocator = tuner.peft_config[adapter], tuner.rankallocator
    for name in _SCORES:
        setattr(allocator, name, state.get(name, {}))
    config.rank_pattern = state.get("rank_pattern")
    tuner.update_and_allocate(step)
    for name in _SCORES:
        state[name] = getattr(allocator, name)
    # With a pattern in its configuration peft slices what it saves by masks that later steps may undo.
    state["rank_pattern"], config.rank_pattern = config.rank_pattern, None


def _adapted(model: Any) -> list[tuple[Any, str, Any]]:
    """Return the parameters under the adapter's layers, each with the module that holds it and its name there."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module.get_base_layer() for module in model.modules() if isinstance(module, BaseTunerLayer)]
    return [(layer, name, parameter.data) for layer in layers for name, parameter in layer.named_parameters()]
