"""Ranks and scales of single modules, which peft's configurations give by patterns of names."""

import re
from collections.abc import Mapping
from typing import Any


def by_pattern(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """Return the value of the first pattern that matches the end of the module's path, as peft does."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def rank_and_alpha(config: Mapping[str, Any], module: str, alpha: str = "lora_alpha") -> tuple[int, float]:
    """Return rank and scale numerator of one module; ``alpha`` names the configuration's key."""
    rank = by_pattern(config.get("rank_pattern"), module, config.get("r", 8))
    return int(rank), float(by_pattern(config.get("alpha_pattern"), module, config.get(alpha, 8)))
