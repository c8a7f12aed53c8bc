"""Who samples the completions: the model itself, or vLLM, whose copy of the weights is renewed at every step.

vLLM is given the merged weights; the frozen ones are kept while they are merged and put back bit for bit, see
``spectra.training.compat.peft``. For vLLM as a server see ``spectra.training.sampling.vllm_server``.
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
    return {
        **shared,
        "vllm_gpu_memory_utilization": rollout.gpu_memory,
        "vllm_max_model_length": rollout.max_model_length,
        "vllm_tensor_parallel_size": rollout.tensor_parallel,
    }


def _alone() -> None:
    """Say what a launcher would: a colocated vLLM asks for its place among processes even where there is one alone."""
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items():
        os.environ.setdefault(name, value)
    take_free_port()


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
        _alone()
        keep_renewable()
