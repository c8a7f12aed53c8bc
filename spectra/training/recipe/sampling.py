"""The recipe section on who samples the completions."""

from typing import Literal

from pydantic import Field

from spectra.config import Section

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
