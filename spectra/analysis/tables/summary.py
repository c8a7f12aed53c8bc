"""Summary of a run: the mean of each metric over matrices, with an interval over layers and its null."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from spectra.linalg.nulls.haar_moments import walk_cosine
from spectra.runs.tables import FLOAT32_ROUNDING, Tables, conform, empty
from spectra.statistics.intervals import layer_interval
from spectra.statistics.shares import analyzed_fraction, isotropic_rhos

Row = dict[str, Any]
_MASKS = ("principal", "low_magnitude", "principal_not_low")
_SIDES = ("left", "right")


@dataclass(frozen=True)
class Averaged:
    """A metric of a table that is averaged over matrices.

    Attributes
    ----------
    name
        Name in the summary.
    table
        Table of its values.
    column
        Column of its values.
    expected
        Its null: a column, or a function of the rows; None if the metric has no null.
    most, least
        The range of the metric.
    of_zero
        Whether it is defined for ΔW = 0, or for an update within rounding.
    """

    name: str
    table: str
    column: str
    expected: str | Callable[[pd.DataFrame], pd.Series] | None = None
    most: float = math.inf
    least: float = 0.0
    of_zero: bool = False


def _modules(*columns: str, **settings: Any) -> Iterator[Averaged]:
    return (Averaged(column, "modules", column, **settings) for column in columns)


def _walk_cosine(rows: pd.DataFrame) -> pd.Series:
    steps = rows["step"].tolist()
    last = max(steps, default=0)
    return pd.Series([walk_cosine(step, last) for step in steps], index=rows.index, dtype="float64")


def _one(rows: pd.DataFrame) -> pd.Series:
    return pd.Series(1.0, index=rows.index)


def _enrichment(mask: str) -> Callable[[pd.DataFrame], pd.Series]:
    return lambda rows: rows[f"expected_overlap_{mask}"] / rows[f"density_{mask}"]


METRICS: tuple[Averaged, ...] = (
    *_modules("relative_fro", "relative_spectral", of_zero=True),
    *_modules("stable_rank", "effective_rank", "effective_rank_energy", "participation_ratio", "nuclear_ratio"),
    *_modules("top1_energy", "outside_left", "outside_right", most=1.0),
    *(Averaged(f"centroid_{side}", "modules", f"centroid_{side}", "expected_centroid", most=1.0) for side in _SIDES),
    Averaged("diagonal_share", "modules", "diagonal_share", "expected_diagonal_share", most=1.0),
    *(Averaged(f"{side}_{subspace}_lift", "lifts", f"{side}_{subspace}", _one)
      for side in (*_SIDES, "joint") for subspace in ("principal", "minor")),
    Averaged("nss", "drift", "nss", of_zero=True),
    Averaged("rho_sigma", "drift", "rho_sigma", isotropic_rhos, most=1.0),
    Averaged("kappa_spec", "drift", "kappa_spec", _one),
    Averaged("angle_max_k16", "drift", "angle_max_k16", most=90.0, of_zero=True),
    Averaged("intruders", "drift", "intruders", most=10.0, of_zero=True),
    Averaged("intruder_energy", "drift", "intruder_energy", most=1.0, of_zero=True),
    Averaged("unchanged_bf16", "coordinates", "unchanged_bf16", "expected_unchanged_bf16", most=1.0, of_zero=True),
    *(Averaged(f"overlap_{m}", "coordinates", f"overlap_{m}", f"expected_overlap_{m}", most=1.0) for m in _MASKS),
    *(Averaged(f"enrichment_{m}", "coordinates", f"enrichment_{m}", _enrichment(m)) for m in _MASKS),
    *(Averaged(f"{g}_gini", "coordinates", f"{g}_gini", f"expected_{g}_gini", most=1.0) for g in ("row", "column")),
    Averaged("cos_final", "trajectory", "cos_final", _walk_cosine, most=1.0, least=-1.0),
    *(Averaged(f"subspace_final_{s}", "trajectory", f"subspace_final_{s}", f"expected_subspace_{s}", most=1.0)
      for s in _SIDES),
    Averaged("rank1_cos_final", "trajectory", "rank1_cos_final", most=1.0),
    Averaged("linearity", "trajectory", "linearity", "expected_linearity", most=1.0),
    *(Averaged(f"{s}_at_start", "trajectory", f"{s}_at_start", f"expected_{s}_at_start", most=1.0) for s in _SIDES),
)  # fmt: skip


def summarize(tables: Tables) -> pd.DataFrame:
    """Return table ``summary``: the mean over matrices of each metric of ``METRICS`` at each step where it is known.

    A lift is the mean share over the mean of what chance gives, as everywhere. The interval is that of
    :func:`spectra.statistics.intervals.layer_interval`, clusters being layers, and every module outside the
    blocks.
    """
    clusters = _clusters(tables)
    rows = [row for metric in METRICS for row in _metric_rows(tables, metric, clusters)]
    if not rows:
        return empty("summary")
    order = {metric.name: number for number, metric in enumerate(METRICS)}
    frame = pd.DataFrame(rows).sort_values(["step", "metric"], key=lambda c: c.map(order) if c.name == "metric" else c)
    return conform("summary", frame)


def _clusters(tables: Tables) -> pd.DataFrame:
    """Return, for each matrix at each step, its cluster, and whether it has a direction."""
    rows = tables.modules[tables.modules["in_features"].notna()]
    layers = rows["layer"].astype("string")
    return pd.DataFrame(
        {
            "step": rows["step"],
            "module": rows["module"],
            "cluster": layers.where(layers.notna(), rows["module"].astype("string")),
            "moved": rows["relative_fro"] > FLOAT32_ROUNDING,
        }
    )


def _metric_rows(tables: Tables, metric: Averaged, clusters: pd.DataFrame) -> list[Row]:
    rows = _values(tables, metric).merge(clusters, on=["step", "module"], validate="many_to_one")
    if not metric.of_zero:
        rows = rows[rows["moved"]]
    return [
        {"step": step, "metric": metric.name, **_mean(group, metric)}
        for step, group in rows[rows["value"].notna()].groupby("step")
    ]


def _mean(group: pd.DataFrame, metric: Averaged) -> Row:
    weights = group["weight"].to_numpy(np.float64)
    found = layer_interval(group["value"].to_numpy(np.float64), group["cluster"].tolist(), weights)
    value, lo, hi = found.within(metric.least, metric.most)
    known = group["expected"].notna().any()
    expected = float(np.average(group["expected"].dropna())) if known else math.nan
    return {"value": value, "lo": lo, "hi": hi, "expected": expected, "matrices": len(group)}


def _values(tables: Tables, metric: Averaged) -> pd.DataFrame:
    """Return step, module, value, weight and expected of one metric, one row per matrix."""
    if metric.table == "lifts":
        return _lifts(tables, metric)
    known = tables[metric.table]
    shapes = [] if metric.table == "modules" else ["out_features", "in_features"]
    rows = known if not shapes else known.merge(tables.modules[["step", "module", *shapes]], on=["step", "module"])
    values = rows[metric.column].astype("float64")
    if metric.expected is None:
        expected = pd.Series(math.nan, index=rows.index)
    else:
        expected = rows[metric.expected] if isinstance(metric.expected, str) else metric.expected(rows)
    plain = {"step": rows["step"], "module": rows["module"], "value": values, "weight": 1.0, "expected": expected}
    return pd.DataFrame(plain).replace([math.inf, -math.inf], math.nan)


def _lifts(tables: Tables, metric: Averaged) -> pd.DataFrame:
    """Return lifts at 10 %, weighted by what chance gives: their mean is the mean share over the mean of chance."""
    side, _, subspace = metric.column.partition("_")
    rows = tables.projection
    rows = rows[(rows["side"] == side) & (rows["subspace"] == subspace)]
    rows = rows[rows["fraction"] == analyzed_fraction(tables)]
    plain = {"step": rows["step"], "module": rows["module"], "value": rows["lift"], "weight": rows["expected"]}
    return pd.DataFrame(plain).assign(expected=1.0)
