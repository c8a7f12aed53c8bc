"""``spectra methods``: what spectra trains, with each method's ΔW."""

from typing import Any


def methods(name: str | None = None) -> list[dict[str, Any]]:
    """Return every trainable method, or the one of that name, as plain values.

    Counts and shares of trainable weights are of the base that ships with spectra, with each method's defaults.

    Raises
    ------
    UsageError
        If there is no such method; names the nearest, or says why spectra does not train it.
    """
    from spectra.config import KeyFault
    from spectra.errors import UsageError
    from spectra.training.methods import METHODS, embedded_shapes, find_method

    try:
        chosen = METHODS if name is None else (find_method(name),)
    except KeyFault as error:
        raise UsageError(str(error), where="spectra methods") from error
    shapes = embedded_shapes()
    return [method.summary(shapes) for method in chosen]
