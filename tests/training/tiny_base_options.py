"""Sections that suit the tiny base, whose smallest side is 16, where a method's defaults suit the one that ships."""

from typing import Any

OPTIONS: dict[str, dict[str, Any]] = {
    "c3a": {"block_size": 16},
    "corda": {"prompts": 8},
    "eva": {"prompts": 8},
    "fourierft": {"n_frequency": 50},
    "road": {"group_size": 16},
    "vblora": {"num_vectors": 16, "vector_length": 16},
    "waveft": {"n_frequency": 50},
}


def small_section(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "options": OPTIONS.get(name, {}),
        **({"r": 16} if name in ("vera", "pvera", "adamss") else {}),
    }
