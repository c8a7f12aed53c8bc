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
from typing import Any, Literal

from pydantic import Field

from spectra.config import Section
from spectra.errors import MissingDependencyError
from spectra.training.sampling.vllm_server import Served, use_server

ImportanceMode = Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]


class RolloutRecipe(Section):
    """How completions are sampled while training.

    Attributes
    ----------
    engine
        ``hf`` samples by the model that trains; ``vllm`` by vLLM, in the same process or from a server.
    mode
        ``colocate``: vLLM shares this process and its device. ``server``: a vLLM server that runs already, as
        ``training/vllm/serve.py`` starts it. Its weights are renewed by NCCL where both sides have it, and else through
        files in TMPDIR, which both must see.
    url
        Where the server listens.
    timeout
        Seconds to wait for a server that does not answer yet.
    gpu_memory
        Share of the device's memory that a colocated vLLM takes.
    max_model_length
        Longest prompt with completion, in tokens; null takes the model's own.
    tensor_parallel
        Devices that a colocated vLLM splits the model over.
    importance_mode, importance_cap
        What vLLM sampled is weighted in the loss by how much likelier the model finds it, token by token or as a whole
        completion (``token_``, ``sequence_``: the product over its tokens, which long completions drive far from 1).
        Ratios over the cap are set to it (``_truncate``) or their part is left out (``_mask``); small ones have no
        bound. A cap of null weights nothing.
    """

    engine: Literal["hf", "vllm"] = "hf"
    mode: Literal["colocate", "server"] = "colocate"
    url: str = Field(default="http://localhost:8000", pattern="^https?://")
    timeout: float = Field(default=30.0, ge=0)
    gpu_memory: float = Field(default=0.3, gt=0, le=1)
    max_model_length: int | None = Field(default=None, ge=1)
    tensor_parallel: int = Field(default=1, ge=1)
    importance_mode: ImportanceMode = "sequence_mask"
    importance_cap: float | None = Field(default=3.0, gt=1)


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
