"""DeepSpeed: parameters partitioned by ZeRO, and their float32 master weights.

No version is pinned. Upstream: none known.
"""

from importlib import import_module
from typing import Any


def is_partitioned(parameter: Any) -> bool:
    """Return whether ZeRO-3 partitioned the parameter; it then has an id."""
    return hasattr(parameter, "ds_id")


def has_master(parameter: Any) -> bool:
    """Return whether DeepSpeed trains a float32 master of the parameter, partly on this process."""
    return hasattr(parameter, "_hp_mapping")


def whole_shape(parameter: Any) -> list[int]:
    """Return the shape of a parameter, also if ZeRO-3 partitioned it."""
    return list(getattr(parameter, "ds_shape", parameter.shape))


def gathered(parameter: Any, *, keep: bool) -> Any:
    """Return the full parameter in main memory, or its float32 master if it trains; None unless ``keep``.

    Every process must call this.
    """
    if parameter.requires_grad:
        whole = import_module("deepspeed.utils").safe_get_full_fp32_param(parameter)
        return whole.detach().cpu() if keep else None
    with import_module("deepspeed").zero.GatheredParameters([parameter]):
        return parameter.detach().cpu().clone() if keep else None
