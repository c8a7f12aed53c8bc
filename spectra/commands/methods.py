"""``spectra methods``: what spectra trains, with each method's ΔW."""

from typing import Any


def methods(name: str | None = None) -> list[dict[str, Any]]:
    """Return every trainable method, or the one of that name, as plain values.

    Raises
    ------
    UsageError
        If there is no such method; names the nearest.
    """
    from spectra.config import KeyFault
    from spectra.errors import UsageError
    from spectra.training.methods import METHODS, find_method

    try:
        chosen = METHODS if name is None else (find_method(name),)
    except KeyFault as error:
        raise UsageError(str(error), where="spectra methods") from error
    return [method.summary() for method in chosen]
