"""Let accelerate take processes on the CPU for processes on GPUs, so that FSDP and ZeRO can be seen running here.

accelerate shards on accelerators only; what shards (torch's ``fully_shard``, DeepSpeed) also works by gloo.
"""

import os
from collections.abc import Callable
from typing import Any


def pretend() -> None:
    """Patch this process, before anything asks accelerate where it is."""
    os.environ |= {"ACCELERATE_TORCH_DEVICE": "cpu", "DS_ACCELERATOR": "cpu"}
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType
    from transformers import training_args

    from spectra.training.distributed import processes
    from spectra.training.loop import trainer

    here: Callable[..., Any] = lambda *asked: ("gloo", DistributedType.MULTI_GPU)  # noqa: E731
    PartialState._prepare_backend = here
    training_args.is_torch_bf16_gpu_available = lambda: True
    processes.on_cpu = trainer.on_cpu = lambda: False
