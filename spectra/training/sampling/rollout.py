"""Who samples the completions: the model itself, or vLLM, whose copy of the weights is renewed at every step.

vLLM is given the merged weights. peft merges by adding ΔW to the frozen weights in their own dtype and unmerges by
subtracting it: in half precision what comes back is not what was there, and over a run the base drifts. Here the frozen
weights are kept while they are merged and put back bit for bit. For vLLM as a server see
``spectra.training.sampling.vllm_server``.
"""

import os
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from spectra.errors import MissingDependencyError
from spectra.training.recipe.sampling import RolloutRecipe
from spectra.training.sampling.vllm_server import Served, use_server


def rollout_arguments(rollout: RolloutRecipe) -> dict[str, Any]:
    """Return the recipe's section in the words of ``GRPOConfig``.

    Raises
    ------
    MissingDependencyError
        If vLLM is asked for and not installed.
    """
    if rollout.engine == "hf":
        return {}
    if find_spec("vllm") is None:
        raise MissingDependencyError(
            "rollout.engine vllm needs vLLM", hint="install it (`make vllm` builds an environment for the CPU)"
        )
    shared: dict[str, Any] = {
        "use_vllm": True,
        "vllm_mode": rollout.mode,
        "vllm_importance_sampling_correction": rollout.importance_cap is not None,
    }
    if rollout.importance_cap is not None:
        shared["vllm_importance_sampling_mode"] = rollout.importance_mode
        shared["vllm_importance_sampling_clip_max"] = rollout.importance_cap
    if rollout.mode == "server":
        return {**shared, "vllm_server_base_url": rollout.url.rstrip("/"), "vllm_server_timeout": rollout.timeout}
    _alone()
    return {
        **shared,
        "vllm_gpu_memory_utilization": rollout.gpu_memory,
        "vllm_max_model_length": rollout.max_model_length,
        "vllm_tensor_parallel_size": rollout.tensor_parallel,
    }


def _alone() -> None:
    """Say what a launcher would: a colocated vLLM asks for its place among processes even where there is one alone."""
    from trl.trainer.utils import ensure_master_addr_port

    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items():
        os.environ.setdefault(name, value)
    ensure_master_addr_port()  # a free one: several such runs may share a machine


def ready_sampler(rollout: RolloutRecipe, model: Any, tokenizer: Any, base: Path) -> None:
    """Prepare a model and TRL for vLLM, before the trainer is built; where the model itself samples, do nothing.

    Parameters
    ----------
    rollout
        The recipe's section.
    model, tokenizer
        The policy.
    base
        Directory of its base weights.
    """
    if rollout.engine == "hf":
        return
    keep_frozen_exact(model)
    if rollout.mode == "server":
        use_server(Served(base, model.config, tokenizer, corrects=rollout.importance_cap is not None))
    else:
        keep_sampler_renewable()


def keep_sampler_renewable() -> None:
    """Let a vLLM on the CPU keep its weights as they come, so that they can be renewed at every step.

    It would pack them for oneDNN or AMX and drop the originals, into which TRL then writes in vain.
    """
    import torch

    if torch.cuda.is_available():
        return
    from vllm import _custom_ops
    from vllm.model_executor.layers import utils

    _custom_ops._supports_onednn = False
    utils.check_cpu_sgl_kernel = lambda *shape_and_dtype: False


def keep_frozen_exact(model: Any) -> None:
    """Make ``merge_adapter`` and ``unmerge_adapter`` of a peft model leave its frozen weights bit for bit as they were.

    Costs one more copy of the adapted base weights while they are merged.

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


def _adapted(model: Any) -> list[tuple[Any, str, Any]]:
    """Return the parameters under the adapter's layers, each with the module that holds it and its name there."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module.get_base_layer() for module in model.modules() if isinstance(module, BaseTunerLayer)]
    return [(layer, name, parameter.data) for layer in layers for name, parameter in layer.named_parameters()]
