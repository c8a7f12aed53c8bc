"""transformers: the devices of a Trainer, the order of its callbacks, and generation in mixed precision.

Tested with transformers 5.17. Upstream: none known.
"""

from functools import wraps
from types import MethodType
from typing import Any


def use_one_device(arguments: Any) -> None:
    """Keep a Trainer from spreading each batch over all GPUs that its process sees, which multiplies the batch."""
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1


def call_first(trainer: Any, callback: Any) -> None:
    """Move a callback before all others, so that those which report see what it adds to a record."""
    handler = trainer.callback_handler
    handler.callbacks = [callback, *(other for other in handler.callbacks if other is not callback)]


def generate_in_bfloat16(model: Any) -> None:
    """Make a model generate as it is trained: under autocast, which here casts each float32 weight once a call."""
    import torch

    generate = type(model).generate

    @wraps(generate)
    def generate_under_autocast(self: Any, *args: Any, **kwargs: Any) -> Any:
        with torch.autocast(self.device.type, torch.bfloat16):
            return generate(self, *args, **kwargs)

    model.generate = MethodType(generate_under_autocast, model)
