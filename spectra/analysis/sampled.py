"""Placeholder until P3 writes it."""

from typing import Any


def null_rows(weight: Any, basis: Any, update: Any, coordinates: Any, *, seed: int) -> list[dict[str, Any]]:
    """Return no row yet."""
    return []
