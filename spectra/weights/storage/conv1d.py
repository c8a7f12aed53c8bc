"""Which base matrices are stored I × O: those of transformers' ``Conv1D``. The one place that knows.

``Conv1D`` computes y = x·W + b, so W is stored inputs × outputs, where ``Linear`` stores outputs × inputs. transformers
uses it in GPT-2, OpenAI GPT, ImageGPT, Decision Transformer and CLVP, for modules of four names. Other families have
linear layers of the same names (GPT-BigCode, GPT-Neo, Starcoder2, Qwen 1), so that the name alone does not tell:

- The bias tells, where the matrix is not square: it is as long as the outputs.
- What it says of one matrix holds for the whole stack of layers, square ones included.
- Without such a bias, the model type in ``config.json`` tells.

An adapter's ``fan_in_fan_out`` does not: peft sets it anew at each module that it wraps, to whether that one is a
``Conv1D``, and saves what it was at the last.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_NAMED = re.compile(r"(.*\.)?(c_attn|q_attn|c_proj|c_fc)\.weight")
_MODEL_TYPES = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp", "clvp_decoder"})
_LAYER = re.compile(r"(?:^|\.)\d+\.")


def any_named(parameters: Iterable[str]) -> bool:
    """Return whether some parameter has a name that a ``Conv1D`` of transformers has."""
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
    """Yield the model types that a configuration and those within it name."""
    if isinstance(config.get("model_type"), str):
        yield config["model_type"]
    for value in config.values():
        if isinstance(value, Mapping):
            yield from _model_types(value)
