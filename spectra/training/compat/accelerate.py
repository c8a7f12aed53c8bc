"""accelerate: environment variables of its launcher.

Tested with accelerate 1.15. Upstream: ``accelerate launch --cpu`` starts one process of several, accelerate#2741.
"""

import os
from typing import Literal


def wants_cpu() -> bool:
    """Return whether the launcher was asked for the CPU."""
    return _is_set("ACCELERATE_USE_CPU")


def sharded_by() -> Literal["FSDP", "DEEPSPEED"] | None:
    """Return what the launcher shards the model by."""
    if _is_set("ACCELERATE_USE_FSDP"):
        return "FSDP"
    return "DEEPSPEED" if _is_set("ACCELERATE_USE_DEEPSPEED") else None


def lost_others() -> bool:
    """Return whether ``accelerate launch --cpu`` was asked for several processes and started this one alone.

    Without MPI it starts no others: it sets their port, which it does for several only, and never a rank.
    """
    return "ACCELERATE_USE_CPU" in os.environ and "MASTER_PORT" in os.environ and "RANK" not in os.environ


def name_cpu_plainly() -> None:
    """Keep accelerate from numbering the CPU of each process: a checkpoint cannot be loaded onto ``cpu:1``."""
    os.environ.setdefault("ACCELERATE_TORCH_DEVICE", "cpu")


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("1", "true", "yes")
