"""Catalog of metrics: definition, null and names in other tools.

The entries are data, one file per theme in ``spectra/runs/metrics/``. Needs neither pandas nor torch. An entry with
``each`` defines one metric per value, and its texts are templates. If an entry names columns for the mean of its null
(``expected``), its z-score (``z``) and its p-value (``p``), those are metrics too.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from itertools import chain
from typing import Any

import yaml

# Columns that identify a row, or count something: not metrics.
KEYS = frozenset(
    "step module layer kind out_features in_features method side subspace fraction k bin index_lo index_hi index "
    "bin_left bin_right metric null draws matrices run_a run_b".split()
)
_UNDEFINED = "NaN: undefined"
_THEMES = (
    ("modules.yaml", "modules"),
    ("places.yaml", ""),
    ("drift.yaml", "drift"),
    ("coordinates.yaml", "coordinates"),
    ("relations.yaml", ""),
    ("runs.yaml", ""),
    ("series.yaml", "series"),
)

Entry = dict[str, Any]


@dataclass(frozen=True)
class Alias:
    """Name of a metric in another tool.

    Attributes
    ----------
    name
        Name in that tool; may equal ours.
    where
        The tool, and how its definition differs from ours, if it does.
    """

    name: str
    where: str


@dataclass(frozen=True)
class Metric:
    """One column of one table.

    Attributes
    ----------
    name
        Name of the column.
    table
        Name of its table, see ``spectra.runs.tables``.
    title
        Short description.
    formula
        Definition. O × I is the shape of ΔW, q = min(O, I), U and V hold the base's singular vectors.
    range
        Smallest and largest value.
    unit
        Unit.
    zero
        Value for ΔW = 0.
    null
        Value that chance gives.
    source
        Reference of the definition.
    aliases
        Names in other tools.
    """

    name: str
    table: str
    title: str
    formula: str
    range: str
    unit: str
    zero: str
    null: str
    source: str
    aliases: tuple[Alias, ...] = ()

    @property
    def qualified(self) -> str:
        """Table and column, such as ``drift.nss``."""
        return f"{self.table}.{self.name}"

    def names(self) -> Iterator[str]:
        """Yield all names of the metric, its own first."""
        yield self.qualified
        yield self.name
        yield from (alias.name for alias in self.aliases)


def find(name: str) -> tuple[Metric, ...]:
    """Return the metrics with a name: a column, ``table.column``, or a name in another tool; empty if there is none.

    A column takes precedence over the same name in another tool.

    >>> [metric.qualified for metric in find("matrix_rank")]
    ['modules.numerical_rank']
    >>> [metric.qualified for metric in find("share")]
    ['projection.share', 'map.share']
    """
    own = tuple(metric for metric in METRICS if name in (metric.name, metric.qualified))
    return own or tuple(metric for metric in METRICS if name in metric.names())


def _load() -> tuple[Metric, ...]:
    """Read every theme; a column that several metrics share, such as their null, is listed once."""
    entries = chain.from_iterable(_entries(name, table) for name, table in _THEMES)
    found: dict[str, Metric] = {}
    for metric in chain.from_iterable(_family(entry) for entry in entries):
        found.setdefault(metric.qualified, metric)
    return tuple(found.values())


def _entries(name: str, table: str) -> Iterator[Entry]:
    text = (files("spectra.runs") / "metrics" / name).read_text(encoding="utf-8")
    for entry in yaml.safe_load(text):
        yield from _expanded({"table": table, **entry} if table else entry)


def _expanded(entry: Entry) -> Iterator[Entry]:
    """Yield one entry per value of ``each``, with the value and its texts filled into every template."""
    each = entry.pop("each", None)
    if each is None:
        yield entry
        return
    [(key, values)] = each.items()
    for value, texts in values.items():
        named = {key: value}
        filled: Entry = {field: _fill(text, texts, named) for field, text in entry.items()}
        yield filled


def _fill(text: Any, texts: list[str], named: Mapping[str, Any]) -> Any:
    if isinstance(text, dict):
        return {_fill(name, texts, named): _fill(where, texts, named) for name, where in text.items()}
    return text.format(*texts, **named)


def _family(entry: Entry) -> Iterator[Metric]:
    """Yield the metric of an entry, then the mean of its null, its z-score and its p-value if they are columns."""
    columns = {key: entry.pop(key, None) for key in ("expected", "z", "p")}
    aliases = tuple(Alias(name, where) for name, where in entry.pop("aliases", {}).items())
    metric = Metric(**{"zero": _UNDEFINED, **entry}, aliases=aliases)
    yield metric
    for name, describe in zip(columns.values(), (_expected, _z, _p), strict=True):
        if name is not None:
            yield describe(metric, name)


def _expected(metric: Metric, name: str) -> Metric:
    return Metric(
        name=name,
        table=metric.table,
        title=f"{metric.title}: expected by chance",
        formula=f"mean under the null of {metric.name}: {metric.null}",
        range=metric.range,
        unit=metric.unit,
        zero="NaN, or the mean of the null if it does not depend on ΔW",
        null="none: it is the mean of the null",
        source="Definition",
    )


def _z(metric: Metric, name: str) -> Metric:
    return Metric(
        name=name,
        table=metric.table,
        title=f"{metric.title}: z-score",
        formula=f"({metric.name} − mean of its null)/standard deviation of its null",
        range="−∞ to ∞",
        unit="standard deviations of the null",
        zero=_UNDEFINED,
        null="0; |z| under 2 is within chance",
        source="Definition",
    )


def _p(metric: Metric, name: str) -> Metric:
    return Metric(
        name=name,
        table=metric.table,
        title=f"{metric.title}: two-sided p-value",
        formula=f"2·min(P(X ≤ x), P(X > x)) for x = {metric.name} under its null; not resolved below 1e-9",
        range="0 to 1",
        unit="probability",
        zero=_UNDEFINED,
        null="uniform",
        source="Distributions matched to four exact moments, see reports/null_calibration.md",
    )


METRICS: tuple[Metric, ...] = _load()
