"""Sampling engine of the rollouts: the model itself, or vLLM, whose weights are updated at every step.

vLLM receives the merged weights. The frozen weights are saved before merging and restored bit for bit, see
``spectra.training.compat.peft``. For a vLLM server see ``spectra.training.sampling.vllm_server``.
"""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from spectra.errors import MissingDependencyError
from spectra.training.compat.peft import keep_frozen_exact
from spectra.training.compat.trl import take_free_port
from spectra.training.compat.vllm import keep_renewable
from spectra.training.recipe.sampling import RolloutRecipe
from spectra.training.sampling.vllm_server import ServedModel, use_server


def rollout_arguments(rollout: RolloutRecipe) -> dict[str, Any]:
    """Return the ``GRPOConfig`` arguments of the recipe's rollout section.

    Raises
    ------
    MissingDependencyError
        If the recipe needs vLLM and it is not installed.
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
    return {
        **shared,
        "vllm_gpu_memory_utilization": rollout.gpu_memory,
        "vllm_max_model_length": rollout.max_model_length,
        "vllm_tensor_parallel_size": rollout.tensor_parallel,
    }


def _alone() -> None:
    """Set the variables of a launcher: a colocated vLLM reads its rank even in a single process."""
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items():
        os.environ.setdefault(name, value)
    take_free_port()


def prepare_sampler(rollout: RolloutRecipe, model: Any, tokenizer: Any, base: Path) -> None:
    """Prepare a model and TRL for vLLM, before the trainer is built; do nothing if the model itself samples.

    Parameters
    ----------
    rollout
        The recipe's section.
    model, tokenizer
        The policy.
    base
        Directory of the base weights.
    """
    if rollout.engine == "hf":
        return
    keep_frozen_exact(model)
    if rollout.mode == "server":
        use_server(ServedModel(base, model.config, tokenizer, corrects=rollout.importance_cap is not None))
    else:
        _alone()
        keep_renewable()
