"""Placeholder until P4 writes it."""

from typing import Any


def trajectory_rows(updates: Any) -> list[dict[str, Any]]:
    """Return no row yet."""
    return []
