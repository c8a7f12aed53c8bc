"""The tables of chosen snapshots, prepared for drawing: medians over matrices, grids, and means with their null.

A mean over matrices is compared with the mean of their nulls; its spread under the null takes the matrices as
independent, as in ``spectra.figures.data.summaries``.
"""

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd

from spectra.figures.data.run_frames import once_per_run
from spectra.figures.data.summaries import BAND, QUANTILES, order_kinds
from spectra.linalg.nulls.haar_moments import NORMAL_95
from spectra.runs.tables import Tables

DEEP = ("drift", "coordinates")  # tables with one row per matrix and snapshot, beside ``modules``


def last_step(frame: pd.DataFrame) -> int | None:
    """Return the last step of a table, None where it has no row."""
    return None if frame.empty else int(frame["step"].max())


def spread(rows: pd.DataFrame, values: "pd.Series[float]", *, middle: float = 0.5) -> pd.DataFrame:
    """Return median and 10–90 % quantiles over matrices by step: step, median, low, high, modules.

    Parameters
    ----------
    rows
        One row per matrix and step.
    values
        A number of each row; what is NaN or not finite is left out.
    middle
        Quantile to use instead of the median.
    """
    finite = values.astype("float64").replace([np.inf, -np.inf], np.nan)
    groups = pd.DataFrame({"step": rows["step"], "value": finite}).dropna().groupby("step")["value"]
    low, high = QUANTILES
    parts = {"median": groups.quantile(middle), "low": groups.quantile(low), "high": groups.quantile(high)}
    return pd.DataFrame({**parts, "modules": groups.size()}).reset_index()


def with_modules(frame: pd.DataFrame, tables: Tables) -> pd.DataFrame:
    """Return the rows of a table with layer, module type, shape and size of their matrix."""
    columns = ["step", "module", "layer", "kind", "out_features", "in_features", "relative_fro"]
    return frame.merge(tables.modules[columns], on=["step", "module"], validate="many_to_one")


@once_per_run
def drift_rows(tables: Tables) -> pd.DataFrame:
    """Return the drift table with layer, module type, shape and size of each matrix."""
    return with_modules(tables.drift, tables)


@once_per_run
def cells(tables: Tables, name: str, column: str, step: int) -> pd.DataFrame:
    """Return a layer × module type grid of a column of a deep table, as ``summaries.grid`` does for ``modules``."""
    frame = tables[name]
    rows = with_modules(frame[(frame["step"] == step) & frame[column].notna()], tables)
    rows = rows.assign(layer=rows["layer"].fillna(-1).astype("int64"), value=rows[column].astype("float64"))
    found = rows.pivot_table(index="layer", columns="kind", values="value", aggfunc="mean", observed=True)
    return found.reindex(columns=order_kinds(rows["kind"]))


@once_per_run
def rounding_floor(tables: Tables) -> pd.DataFrame:
    """Return the median over matrices of ‖rounding‖/‖W‖ by step, where snapshots were rounded: step, floor."""
    rows = tables.modules[(tables.modules["rounding_fro"] > 0) & (tables.modules["weight_fro"] > 0)]
    floors = (rows["rounding_fro"] / rows["weight_fro"]).groupby(rows["step"]).median()
    return floors.rename("floor").reset_index()


@once_per_run
def interval(tables: Tables, metric: str) -> pd.DataFrame:
    """Return the rows of ``summary`` of one metric with an interval, by step."""
    rows = tables.summary[tables.summary["metric"] == metric]
    return rows.dropna(subset=["value", "lo", "hi"]).sort_values("step")


@once_per_run
def mask_rows(tables: Tables, step: int) -> pd.DataFrame:
    """Return visibility and mask enrichments by module type, each next to noise through the same cast.

    Returns
    -------
    pd.DataFrame
        A row is panel × kind: ``panel`` (unchanged_bf16, principal, low_magnitude, principal_not_low), ``kind``,
        ``value`` and ``expected`` (means over matrices), ``null_low``, ``null_high`` (expected ± 2 standard deviations
        of the mean), ``matrices``.
    """
    rows = with_modules(tables.coordinates[tables.coordinates["step"] == step], tables)
    parts = [
        _beside(rows, "unchanged_bf16", "unchanged_bf16", "expected_unchanged_bf16", "z_unchanged_bf16", None),
        *(
            _beside(rows, mask, f"overlap_{mask}", f"expected_overlap_{mask}", f"z_overlap_{mask}", f"density_{mask}")
            for mask in ("principal", "low_magnitude", "principal_not_low")
        ),
    ]
    return pd.concat(parts, ignore_index=True)


@once_per_run
def null_rows(tables: Tables, step: int) -> pd.DataFrame:
    """Return every sampled metric against each family of nulls, as means over matrices.

    Returns
    -------
    pd.DataFrame
        A row is metric × null: ``value``, ``expected``, ``lo``, ``hi`` (95 % of the mean under the null; for one
        matrix the null's own interval), ``z``, ``matrices``. The families of a metric are compared over the matrices
        that all of them have; where there are none, only the family with the most is kept.
    """
    rows = tables.nulls[tables.nulls["step"] == step].dropna(subset=["value", "expected", "sd"])
    rows = pd.concat([rows.iloc[:0], *(_common(group) for _, group in rows.groupby("metric", sort=False))])
    groups = rows.groupby(["metric", "null"], sort=False)
    found = [{"metric": metric, "null": null, **_mean_null(group)} for (metric, null), group in groups]
    return pd.DataFrame(found, columns=["metric", "null", "value", "expected", "lo", "hi", "z", "matrices"])


@once_per_run
def map_grid(tables: Tables, step: int) -> tuple[pd.DataFrame, int]:
    """Return share ÷ chance over left × right bins, and the matrices that it is the mean of.

    Matrices with fewer bins than most (fewer directions) have no place in the same grid and are left out.
    """
    rows = tables.map[tables.map["step"] == step].dropna(subset=["share"])
    if rows.empty:
        return pd.DataFrame(), 0
    sizes = rows.groupby("module")["bin_left"].transform("max")
    rows = rows[sizes == sizes.mode().max()]
    sums = rows.groupby(["bin_left", "bin_right"])[["share", "expected"]].mean()
    return (sums["share"] / sums["expected"]).unstack("bin_right"), rows["module"].nunique()


def pair_grid(pairs: pd.DataFrame, runs: Iterable[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return mean cosine of every two runs' updates over their common matrices, and its z; NaN where none is."""
    names = list(runs)
    empty = pd.DataFrame(np.nan, index=names, columns=names, dtype="float64")
    cosine, z = empty.copy(), empty.copy()
    for (one, other), group in pairs.dropna(subset=["cosine"]).groupby(["run_a", "run_b"]):
        if one not in names or other not in names:
            continue
        mean = float(group["cosine"].mean())
        sd = _sd_of_mean(group["cosine"] / group["z_cosine"])
        for a, b in ((one, other), (other, one)):
            cosine.loc[a, b] = mean
            z.loc[a, b] = mean / sd if sd > 0 else math.nan
    return cosine, z


def _beside(rows: pd.DataFrame, panel: str, value: str, expected: str, z: str, density: str | None) -> pd.DataFrame:
    """Return means by kind of a column and its null, divided by the mask's density where there is one."""
    unit = rows[density] if density is not None else 1.0
    known = pd.DataFrame(
        {
            "kind": rows["kind"],
            "value": rows[value] / unit,
            "expected": rows[expected] / unit,
            "sd": ((rows[value] - rows[expected]) / rows[z] / unit).replace([np.inf, -np.inf], np.nan),
        }
    ).dropna(subset=["value", "expected"])
    groups = known.groupby("kind")
    means = groups[["value", "expected"]].mean().assign(matrices=groups.size())
    half = BAND * groups["sd"].agg(_sd_of_mean)
    means = means.assign(panel=panel, null_low=means["expected"] - half, null_high=means["expected"] + half)
    return means.loc[order_kinds(known["kind"])].reset_index()


def _common(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of one metric whose matrices every family of nulls has."""
    families = rows.groupby("module")["null"].nunique()
    common = rows[rows["module"].isin(families.index[families == rows["null"].nunique()])]
    return rows[rows["null"] == rows["null"].value_counts().idxmax()] if common.empty else common


def _mean_null(group: pd.DataFrame) -> dict[str, float]:
    mean, expected = float(group["value"].mean()), float(group["expected"].mean())
    sd = _sd_of_mean(group["sd"])
    # The normal interval of a mean may leave the range that every matrix's null keeps to, such as counts from 0.
    lo, hi = max(expected - NORMAL_95 * sd, min(0.0, float(group["lo"].min()))), expected + NORMAL_95 * sd
    if len(group) == 1:
        lo, hi = float(group["lo"].iloc[0]), float(group["hi"].iloc[0])
    z = (mean - expected) / sd if sd > 0 else math.nan
    return {"value": mean, "expected": expected, "lo": lo, "hi": hi, "z": z, "matrices": len(group)}


def _sd_of_mean(sds: "pd.Series[float]") -> float:
    """Return the standard deviation of the mean of independent values."""
    return math.sqrt(float((sds**2).sum())) / len(sds) if len(sds) else math.nan
