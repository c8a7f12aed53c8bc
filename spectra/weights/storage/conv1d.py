"""Detect base matrices that are stored I × O: those of transformers' ``Conv1D``.

``Conv1D`` computes y = x·W + b, so W is stored inputs × outputs, where ``Linear`` stores outputs × inputs. transformers
uses it in GPT-2, OpenAI GPT, ImageGPT, Decision Transformer and CLVP, for modules of four names. Other families have
linear layers with the same names (GPT-BigCode, GPT-Neo, Starcoder2, Qwen 1), so that the name alone does not decide:

- If the matrix is not square, the length of its bias is the number of outputs.
- The result for one matrix holds for the whole stack of layers, square ones included.
- Without such a bias, the model type in ``config.json`` decides.

An adapter's ``fan_in_fan_out`` cannot be used: peft overwrites it for each module that it wraps, with whether that one
is a ``Conv1D``, and saves the value of the last.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_NAMED = re.compile(r"(.*\.)?(c_attn|q_attn|c_proj|c_fc)\.weight")
_MODEL_TYPES = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp", "clvp_decoder"})
_LAYER = re.compile(r"(?:^|\.)\d+\.")


def any_named(parameters: Iterable[str]) -> bool:
    """Return whether any parameter has the name of a ``Conv1D`` in transformers."""
    return any(_NAMED.fullmatch(name) for name in parameters)


def stored_transposed(shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any]) -> frozenset[str]:
    """Return the parameters that are stored I × O.

    Parameters
    ----------
    shapes
        Shape of every parameter of a model, as stored.
    config
        The model's ``config.json``; may be empty.
    """
    stacks: dict[str, list[str]] = defaultdict(list)
    for name, shape in shapes.items():
        if len(shape) == 2 and _NAMED.fullmatch(name):
            stacks[_LAYER.split(name, maxsplit=1)[0]].append(name)
    by_type = not _MODEL_TYPES.isdisjoint(_model_types(config))
    return frozenset(name for stack in stacks.values() if _is_transposed(stack, shapes, by_type) for name in stack)


def _is_transposed(stack: Iterable[str], shapes: Mapping[str, tuple[int, ...]], by_type: bool) -> bool:
    for name in stack:
        rows, columns = shapes[name]
        bias = shapes.get(f"{name.removesuffix('weight')}bias")
        if rows != columns and bias in ((rows,), (columns,)):
            return bias == (columns,)
    return by_type


def _model_types(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the model types in a configuration and its nested configurations."""
    if isinstance(config.get("model_type"), str):
        yield config["model_type"]
    for value in config.values():
        if isinstance(value, Mapping):
            yield from _model_types(value)
