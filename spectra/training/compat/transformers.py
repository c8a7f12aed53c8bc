"""transformers: the devices of a Trainer, the order of its callbacks, and generation in mixed precision.

Tested with transformers 5.17. Upstream: none known.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from types import MethodType
from typing import Any

import torch


def use_one_device(arguments: Any) -> None:
    """Keep a Trainer from spreading each batch over all GPUs that its process sees, which multiplies the batch."""
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1


def call_first(trainer: Any, callback: Any) -> None:
    """Move a callback before all others, so that loggers get what it adds to a record."""
    handler = trainer.callback_handler
    handler.callbacks = [callback, *(other for other in handler.callbacks if other is not callback)]


def generate_in_bfloat16(model: Any) -> None:
    """Make a model generate as it is trained: under autocast, which casts each float32 weight once per call."""
    generate = type(model).generate

    @wraps(generate)
    def generate_under_autocast(self: Any, *args: Any, **kwargs: Any) -> Any:
        with torch.autocast(self.device.type, torch.bfloat16):
            return generate(self, *args, **kwargs)

    model.generate = MethodType(generate_under_autocast, model)


@contextmanager
def shared_prefixes(model: Any) -> Iterator[None]:
    """Let ``generate`` compute each distinct sequence of a batch once; what is sampled stays the same.

    transformers computes every row, so a group of 8 completions reads its prompt 8 times, and rows that have sampled
    the same tokens so far compute the same next distribution. Here the model sees the distinct rows alone, and their
    logits are copied to the others; the cache holds one row per distinct sequence. Batches that are not plain text with
    a plain cache are computed as usual, and so is a model whose dropout draws a mask for each row. On the CPU logits
    are the same bit for bit; a GPU may choose another kernel for a smaller batch.

    Parameters
    ----------
    model
        A causal language model, with or without a peft adapter; a method is replaced on the instance meanwhile.
    """
    inner = model.get_base_model() if hasattr(model, "peft_config") else model
    if "prepare_inputs_for_generation" in vars(inner) or draws_dropout(model):
        yield
        return
    shared = _SharedRows(inner.prepare_inputs_for_generation)
    inner.prepare_inputs_for_generation = shared.prepare
    hook = inner.register_forward_hook(shared.spread)
    try:
        yield
    finally:
        hook.remove()
        del inner.prepare_inputs_for_generation


class _SharedRows:
    """Reduces the inputs of each forward pass to its distinct rows, and copies the logits back."""

    def __init__(self, prepare: Callable[..., Any]) -> None:
        self._prepare = prepare
        self._row: Any = None  # number of the distinct sequence of each row; None where rows are not shared
        self._held = 0  # sequences that the cache holds

    def prepare(self, input_ids: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the model's inputs, as ``prepare_inputs_for_generation`` does."""
        cache: Any = kwargs.get("past_key_values")
        begins = cache is None or cache.get_seq_length() == 0
        if begins:
            self._row = None
            if not _is_plain(cache, input_ids, kwargs):
                return self._prepare(input_ids, *args, **kwargs)
            first, self._row = distinct_rows(torch.cat([input_ids, kwargs["attention_mask"]], dim=1))
        elif self._row is None:
            return self._prepare(input_ids, *args, **kwargs)
        else:  # two rows are equal if they were so far and have sampled the same token
            before = self._row
            first, self._row = distinct_rows(torch.stack([before, input_ids[:, -1]], dim=1))
            if len(first) > self._held:
                cache.batch_select_indices(before[first])
        self._held = len(first)
        fewer = {
            name: value[first] if name in _OF_ROWS and value is not None else value for name, value in kwargs.items()
        }
        prepared = self._prepare(input_ids[first], *args, **fewer)
        if len(first) == len(self._row):  # all rows differ from here on; they are in the order of the batch
            self._row = None
        return prepared

    def spread(self, module: Any, inputs: Any, outputs: Any) -> None:
        """Copy the logits of the distinct rows to the others: a forward hook."""
        if self._row is not None:
            outputs.logits = outputs.logits[self._row]


_OF_ROWS = ("attention_mask", "position_ids")


def _is_plain(cache: Any, input_ids: Any, kwargs: Mapping[str, Any]) -> bool:
    from transformers.cache_utils import DynamicCache, DynamicLayer

    of_rows = {name for name, value in kwargs.items() if isinstance(value, torch.Tensor) and name != "cache_position"}
    return (
        type(cache) is DynamicCache
        and all(type(layer) is DynamicLayer for layer in cache.layers)
        and "attention_mask" in of_rows
        and of_rows <= set(_OF_ROWS)
        and all(kwargs[name].shape == input_ids.shape for name in of_rows)
    )


def draws_dropout(model: Any) -> bool:
    """Return whether equal rows of a batch can give different outputs: the model is in training mode, with dropout."""
    if not model.training:
        return False
    return any(type(module).__name__.endswith("Dropout") and module.p > 0 for module in model.modules())


def distinct_rows(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the first of each set of equal rows of integers (B, N), and for each row the number of its set.

    Returns
    -------
    tuple of Tensor
        Indices of rows in rising order (D,), and numbers below D (B,).

    >>> distinct_rows(torch.tensor([[5, 1], [5, 2], [5, 1]]))
    (tensor([0, 1]), tensor([0, 1, 0]))
    """
    numbers: dict[tuple[int, ...], int] = {}
    first: list[int] = []
    row: list[int] = []
    for at, values in enumerate(rows.tolist()):
        number = numbers.setdefault(tuple(values), len(numbers))
        if number == len(first):
            first.append(at)
        row.append(number)
    return torch.tensor(first, device=rows.device), torch.tensor(row, device=rows.device)
