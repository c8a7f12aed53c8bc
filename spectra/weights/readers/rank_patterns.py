"""Rank and alpha per module, from the name patterns in peft's configurations."""

import math
import re
from collections.abc import Mapping
from typing import Any

from spectra.errors import CorruptFileError

_HINT = "restore the value used in training in adapter_config.json"


def by_pattern(patterns: Any, module: str, default: Any) -> Any:
    """Return the value of the first pattern that matches the end of the module's path, as peft does.

    ``patterns`` is the value in the configuration: a mapping or None.

    Raises
    ------
    CorruptFileError
        If the patterns are not a mapping, or one is not a regular expression.
    """
    if not isinstance(patterns or {}, Mapping):
        raise CorruptFileError(f"rank and alpha patterns must be a mapping, got {patterns!r}", hint=_HINT)
    for pattern, value in (patterns or {}).items():
        try:
            found = re.match(rf"(.*\.)?({pattern})$", module)
        except re.error as error:
            raise CorruptFileError(
                f"its pattern {pattern!r} is not a regular expression ({error})", hint=_HINT
            ) from error
        if found:
            return value
    return default


def rank_and_alpha(config: Mapping[str, Any], module: str, alpha: str = "lora_alpha") -> tuple[int, float]:
    """Return rank and alpha of one module; ``alpha`` is the key in the configuration.

    Raises
    ------
    CorruptFileError
        If the rank is not a positive integer, or alpha is not a finite number.
    """
    rank = by_pattern(config.get("rank_pattern"), module, config.get("r", 8))
    scale = by_pattern(config.get("alpha_pattern"), module, config.get(alpha, 8))
    if not _is_number(rank) or rank < 1 or int(rank) != rank:
        raise CorruptFileError(f"r must be a positive integer, got {rank!r} for {module}", hint=_HINT)
    if not _is_number(scale):
        raise CorruptFileError(f"{alpha} must be a finite number, got {scale!r} for {module}", hint=_HINT)
    return int(rank), float(scale)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
