"""Placeholder until P2 writes it."""

from typing import Any


class BaseCoordinates:
    """Nothing yet."""

    def __init__(self, weight: Any, basis: Any) -> None:
        pass

    def row(self, update: Any) -> dict[str, Any]:
        """Return no column yet."""
        return {}
