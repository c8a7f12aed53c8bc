"""Recipe section for the sampling engine of the completions."""

from typing import Literal

from pydantic import Field

from spectra.config import Section

ImportanceMode = Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]


class RolloutRecipe(Section):
    """Sampling of completions during training.

    Attributes
    ----------
    engine
        ``hf``: the trained model samples with transformers. ``vllm``: vLLM samples, in the same process or as a server.
    mode
        ``colocate``: vLLM shares this process and its device. ``server``: a running vLLM server, started by
        ``training/vllm/serve.py``. Its weights are updated through NCCL if both sides have it, otherwise through files
        in TMPDIR, which must be accessible to both.
    url
        URL of the server.
    timeout
        Seconds to wait for the server to answer.
    gpu_memory
        Fraction of GPU memory for a colocated vLLM (gpu_memory_utilization).
    max_model_length
        Maximum length of prompt plus completion, in tokens; null takes the model's maximum.
    tensor_parallel
        Number of devices over which a colocated vLLM splits the model.
    importance_mode, importance_cap
        Importance sampling correction: the loss weights what vLLM sampled by the ratio of the model's probability to
        vLLM's, per token or per completion (``token_``, ``sequence_``: the product over its tokens, which is far from 1
        for long completions). Ratios over the cap are set to it (``_truncate``) or masked out (``_mask``); small ratios
        have no bound. A cap of null disables the correction.
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
