"""Options shared by several commands, and a decorator that turns the fields of a dataclass into options."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, is_dataclass
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


@dataclass(frozen=True)
class Origin:
    """What the update of a run is measured against."""

    base: Base = None
    initial: Initial = None


def fields_are_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one option per field, in place of each parameter that is a dataclass.

    Each field is annotated ``Annotated[type, typer.Option(...)]`` and has a default; a ``Sequence`` is an option that
    may be repeated. This decorator stands between ``@app.command()`` and the function.
    """
    own = inspect.signature(command, eval_str=True).parameters
    kinds = {name: one.annotation for name, one in own.items() if isinstance(one.annotation, type)}
    made = {name: kind for name, kind in kinds.items() if is_dataclass(kind)}
    fields = {name: inspect.signature(made[name], eval_str=True).parameters for name in made}

    @wraps(command)
    def called(**values: Any) -> None:
        groups = {name: made[name](**{field: values.pop(field) for field in fields[name]}) for name in made}
        command(**values, **groups)

    flat = [field for name, one in own.items() for field in (fields[name].values() if name in made else [one])]
    options = [one.replace(kind=one.KEYWORD_ONLY, annotation=_option(one.annotation)) for one in flat]
    called.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    called.__annotations__ = {one.name: one.annotation for one in options}
    return called


def _option(annotation: Any) -> Any:
    """Return an annotation that typer supports: of the sequences, it supports only lists."""
    value, *rest = get_args(annotation)
    if get_origin(value) is not Sequence:
        return annotation
    return getitem(Annotated, (GenericAlias(list, get_args(value)), *rest))
