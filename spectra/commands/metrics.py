"""``spectra metrics``: every metric with its definition, its null, and what other tools call it."""

from dataclasses import asdict
from typing import Any


def metrics(name: str | None = None) -> list[dict[str, Any]]:
    """Return every metric, or those of one name, as plain values.

    Parameters
    ----------
    name
        A column, ``table.column``, or another tool's name such as ``matrix_rank``; None is all.

    Returns
    -------
    list[dict[str, Any]]
        One entry a metric, with the fields of :class:`spectra.runs.catalogue.Metric`. A name that several tables have
        gives several.

    Raises
    ------
    UsageError
        If nothing has that name; names the nearest.
    """
    from spectra.errors import UsageError
    from spectra.runs.catalogue import METRICS, find

    found = METRICS if name is None else find(name)
    if not found:
        raise UsageError(f"no metric is called {name!r}", where="spectra metrics", cure=_nearest(str(name)))
    return [asdict(metric) for metric in found]


def _nearest(name: str) -> str:
    from difflib import get_close_matches

    from spectra.runs.catalogue import METRICS

    known = {known for metric in METRICS for known in metric.names()}
    near = get_close_matches(name, sorted(known), n=1)
    return f"did you mean {near[0]!r}?" if near else "`spectra metrics` lists them all"
