"""Placeholder until P1 writes it."""

from typing import Any


def drift_row(weight: Any, basis: Any, update: Any) -> dict[str, Any]:
    """Return no column yet."""
    return {}
