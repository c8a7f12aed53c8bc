"""DeepSpeed: parameters that ZeRO partitions, and the float32 masters that it trains.

No version is pinned. Upstream: none known.
"""

from importlib import import_module
from typing import Any


def is_partitioned(parameter: Any) -> bool:
    """Return whether ZeRO-3 emptied the parameter; it then has a number."""
    return hasattr(parameter, "ds_id")


def has_master(parameter: Any) -> bool:
    """Return whether DeepSpeed trains a float32 master of the parameter, of which a part is on this process."""
    return hasattr(parameter, "_hp_mapping")


def whole_shape(parameter: Any) -> list[int]:
    """Return the shape of a parameter, also of one that ZeRO-3 emptied."""
    return list(getattr(parameter, "ds_shape", parameter.shape))


def gathered(parameter: Any, *, keep: bool) -> Any:
    """Return the whole parameter in main memory, its float32 master if it trains; None where it is not kept.

    Every process must call this.
    """
    if parameter.requires_grad:
        whole = import_module("deepspeed.utils").safe_get_full_fp32_param(parameter)
        return whole.detach().cpu() if keep else None
    with import_module("deepspeed").zero.GatheredParameters([parameter]):
        return parameter.detach().cpu().clone() if keep else None
