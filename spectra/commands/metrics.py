"""``spectra metrics``: every metric with its definition, its null, and its names in other tools."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any


def metrics(name: str | None = None) -> list[dict[str, Any]]:
    """Return every metric, or those with one name, as plain values.

    Parameters
    ----------
    name
        A column, ``table.column``, or a name used by another tool such as ``matrix_rank``; None returns all.

    Returns
    -------
    list[dict[str, Any]]
        One entry per metric, with the fields of :class:`spectra.runs.catalog.Metric`; ``aliases`` maps each
        other name to the tool that uses it and how it differs. A name that occurs in several tables returns several
        entries.

    Raises
    ------
    UsageError
        If no metric has that name; the hint names the nearest.
    """
    from spectra.errors import UsageError
    from spectra.runs.catalog import METRICS, find

    found = METRICS if name is None else find(name)
    if not found:
        raise UsageError(f"no metric named {name!r}", where="spectra metrics", hint=_nearest(str(name)))
    return [{**asdict(metric), "aliases": {alias.name: alias.where for alias in metric.aliases}} for metric in found]


def lines(metric: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines to print for one metric of :func:`metrics`."""
    yield f"{metric['table']}.{metric['name']}: {metric['title']}"
    for field in ("formula", "range", "unit"):
        yield f"  {field}: {metric[field]}"
    yield f"  for ΔW = 0: {metric['zero']}"
    yield f"  by chance: {metric['null']}"
    yield f"  source: {metric['source']}"
    for name, where in metric["aliases"].items():
        yield f"  also {name}: {where}"


def _nearest(name: str) -> str:
    from difflib import get_close_matches

    from spectra.runs.catalog import METRICS

    known = sorted({known for metric in METRICS for known in metric.names()})
    near = get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else "`spectra metrics` lists them all"
