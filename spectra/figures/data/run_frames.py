"""The tables of one run, with everything that its figures and captions take from them prepared once."""

from collections.abc import Callable, Hashable
from functools import cached_property, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import pandas as pd

from spectra.runs.tables import SCHEMAS, Tables

P = ParamSpec("P")
R = TypeVar("R")


class RunFrames(Tables):
    """The tables of one run that keep what is prepared from them, as long as they live.

    Figures take them wherever they take :class:`~spectra.runs.tables.Tables`. The tables must not change.

    Parameters
    ----------
    tables
        The tables.
    """

    def __init__(self, tables: Tables) -> None:
        super().__init__(**{name: tables[name] for name in SCHEMAS})

    @classmethod
    def of(cls, tables: Tables) -> "RunFrames":
        """Return ``tables`` themselves where they are ``RunFrames`` already."""
        return tables if isinstance(tables, cls) else cls(tables)

    def resolved_modules(self) -> pd.DataFrame:
        """Return ``modules`` as :meth:`spectra.runs.tables.Tables.resolved_modules` does, without a copy."""
        return self._resolved

    @cached_property
    def kept(self) -> dict[Hashable, Any]:
        """What :func:`once_per_run` has prepared, by function and arguments."""
        return {}

    @cached_property
    def _resolved(self) -> pd.DataFrame:
        return super().resolved_modules()


def once_per_run(prepare: Callable[Concatenate[Tables, P], R]) -> Callable[Concatenate[Tables, P], R]:
    """Make a function of a run's tables compute its result once for :class:`RunFrames`, anew for plain ``Tables``.

    All arguments are hashable, and nobody changes the result.
    """

    @wraps(prepare)
    def prepared(tables: Tables, *arguments: P.args, **named: P.kwargs) -> R:
        if not isinstance(tables, RunFrames):
            return prepare(tables, *arguments, **named)
        key = (prepare, arguments, tuple(sorted(named.items())))
        if key not in tables.kept:
            tables.kept[key] = prepare(tables, *arguments, **named)
        return cast(R, tables.kept[key])

    return cast(Callable[Concatenate[Tables, P], R], prepared)
