"""Options that several commands share, and commands whose options are the fields of a dataclass."""

import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from operator import getitem
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any, get_args, get_origin

import typer

Base = Annotated[
    str | None, typer.Option(help="Base model: directory or Hub id (default: the one that the run names).")
]
Initial = Annotated[
    Path | None,
    typer.Option(help="Step-0 adapter or residual base (PiSSA, MiLoRA, …), if the run does not contain it."),
]
Out = Annotated[Path | None, typer.Option(help="Output directory (default: inside the run).")]


def fields_are_options(options: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option per field of a dataclass, in place of its parameter ``options``.

    Parameters
    ----------
    options
        A dataclass. Each annotation is ``Annotated[type, typer.Option(...)]``; a ``Sequence`` is an option that may be
        repeated.

    Returns
    -------
    Callable
        A decorator for the function that typer registers.
    """
    fields = inspect.signature(options, eval_str=True).parameters

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def called(**values: Any) -> None:
            chosen = {name: values.pop(name) for name in fields}
            command(**values, options=options(**chosen))

        parameters = inspect.signature(command, eval_str=True).parameters
        added = [
            field.replace(kind=field.KEYWORD_ONLY, annotation=_option(field.annotation)) for field in fields.values()
        ]
        own = [one.replace(kind=one.KEYWORD_ONLY) for name, one in parameters.items() if name != "options"]
        whole = [*own[:1], *added, *own[1:]]
        called.__signature__ = inspect.Signature(whole)  # type: ignore[attr-defined]
        called.__annotations__ = {one.name: one.annotation for one in whole}
        return called

    return decorate


def _option(annotation: Any) -> Any:
    """Return an annotation as typer knows it: it has lists, and no other sequences."""
    value, *rest = get_args(annotation)
    if get_origin(value) is not Sequence:
        return annotation
    return getitem(Annotated, (GenericAlias(list, get_args(value)), *rest))
