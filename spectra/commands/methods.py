"""``spectra methods``: the methods that spectra trains, each with its ΔW."""

from collections.abc import Iterator, Mapping
from typing import Any


def methods(name: str | None = None) -> list[dict[str, Any]]:
    """Return every trainable method, or the one with that name, as plain values.

    Trainable weights are counted on the base model that ships with spectra, with the defaults of each method.

    Raises
    ------
    UsageError
        If there is no such method; the hint names the nearest, or why spectra does not train it.
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


def lines(method: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines to print for one method of :func:`methods`; empty entries are left out."""
    for key, value in method.items():
        if key == "notes":
            yield from (f"note: {note}" for note in value)
        elif value not in (None, [], {}):
            yield f"{key.replace('_', ' ')}: {_text(value)}"


def _text(value: Any) -> str:
    """Return a value as readable text: yes or no, names in a row, settings as ``name = value``.

    >>> _text({"r": 8, "share": False, "tinit": None, "target_modules": ["q_proj", "v_proj"]})
    'r = 8, share = no, tinit = none, target_modules = q_proj v_proj'
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} = {_text(item)}" for key, item in value.items())
    return " ".join(map(_text, value)) if isinstance(value, list | tuple) else str(value)
