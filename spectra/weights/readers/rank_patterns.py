"""Ranks and scales of single modules, which peft's configurations give by patterns of names."""

import math
import re
from collections.abc import Mapping
from typing import Any

from spectra.errors import CorruptFileError

_HINT = "write what the training had into adapter_config.json"


def by_pattern(patterns: Any, module: str, default: Any) -> Any:
    """Return the value of the first pattern that matches the end of the module's path, as peft does.

    ``patterns`` is what a configuration holds: a mapping, or nothing.

    Raises
    ------
    CorruptFileError
        If the patterns are no mapping, or one of them is no regular expression.
    """
    if not isinstance(patterns or {}, Mapping):
        raise CorruptFileError(f"its patterns of ranks or alphas are {patterns!r}", hint=_HINT)
    for pattern, value in (patterns or {}).items():
        try:
            found = re.match(rf"(.*\.)?({pattern})$", module)
        except re.error as error:
            raise CorruptFileError(f"its pattern {pattern!r} is no regular expression ({error})", hint=_HINT) from error
        if found:
            return value
    return default


def rank_and_alpha(config: Mapping[str, Any], module: str, alpha: str = "lora_alpha") -> tuple[int, float]:
    """Return rank and scale numerator of one module; ``alpha`` names the configuration's key.

    Raises
    ------
    CorruptFileError
        If the rank is no positive integer, or the scale no finite number.
    """
    rank = by_pattern(config.get("rank_pattern"), module, config.get("r", 8))
    scale = by_pattern(config.get("alpha_pattern"), module, config.get(alpha, 8))
    if not _is_number(rank) or rank < 1 or int(rank) != rank:
        raise CorruptFileError(f"r is {rank!r} for {module}", hint=_HINT)
    if not _is_number(scale):
        raise CorruptFileError(f"{alpha} is {scale!r} for {module}", hint=_HINT)
    return int(rank), float(scale)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
