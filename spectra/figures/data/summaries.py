"""Small tables for the figures: medians, lifts, grids and curves. Draws nothing.

Means of shares over matrices, and what chance gives for them, come from :mod:`spectra.statistics.shares`.
"""

from collections.abc import Iterable
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from spectra.errors import UsageError
from spectra.figures.data.run_frames import once_per_run
from spectra.runs.tables import Tables
from spectra.statistics.shares import FRACTION as FRACTION
from spectra.statistics.shares import analyzed_fraction as analyzed_fraction
from spectra.statistics.shares import mean_share, share_rows
from spectra.statistics.shares import with_shapes as with_shapes

Side = Literal["left", "right"]
Subspace = Literal["principal", "minor"]

BAND = 2.0  # half-width of a null band in standard deviations
QUANTILES = (0.1, 0.9)  # spread across matrices

_KINDS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def check(value: str, allowed: Any, name: str) -> None:
    """Raise unless ``value`` is a member of the literal type ``allowed``.

    Raises
    ------
    UsageError
        If it is not.
    """
    if value not in get_args(allowed):
        raise UsageError(f"{value!r} is not known", where=name, hint=f"choose one of {', '.join(get_args(allowed))}")


@once_per_run
def analyzed_steps(tables: Tables) -> list[int]:
    """Return the analyzed steps in order."""
    return sorted({int(value) for value in tables.modules["step"]})


def resolve_step(tables: Tables, step: int | None) -> int:
    """Return ``step``, or the last analyzed step for None; 0 for tables without a row.

    Raises
    ------
    UsageError
        If that step was not analyzed.
    """
    steps = analyzed_steps(tables)
    if step is None:
        return steps[-1] if steps else 0
    if step not in steps:
        known = ", ".join(map(str, steps)) or "none"
        raise UsageError("was not analyzed", where=f"step {step}", hint=f"choose one of: {known}")
    return step


@once_per_run
def is_placed(tables: Tables) -> bool:
    """Return whether a matrix has a direction at the last step: an update that is finite, and more than rounding."""
    rows = with_shapes(tables, "projection", resolve_step(tables, None))
    return bool(rows["lift"].notna().any())


def only_vectors(tables: Tables) -> bool:
    """Return whether what trains are vectors (norms, biases), and no matrix."""
    return len(tables.modules) > 0 and bool(tables.modules["in_features"].isna().all())


def order_kinds(kinds: Iterable[str]) -> list[str]:
    """Return the distinct module types in the order of a block's forward pass, then unknown ones.

    >>> order_kinds(["up_proj", "c_attn", "q_proj", "up_proj"])
    ['q_proj', 'up_proj', 'c_attn']
    """
    seen = list(dict.fromkeys(kinds))
    return [kind for kind in _KINDS if kind in seen] + [kind for kind in seen if kind not in _KINDS]


def lifts(tables: Tables, by: list[str], fraction: float = FRACTION, step: int | None = None) -> pd.DataFrame:
    """Return the lift of every group of matrices, side and subspace.

    Parameters
    ----------
    by
        Columns to group by, beside side and subspace: ``["step"]`` or ``["step", "kind"]``.
    fraction
        Part of the singular directions that counts as principal or minor; the nearest analyzed one is taken.
    step
        One analyzed step; None is all.

    Returns
    -------
    pd.DataFrame
        Columns: ``by``, side, subspace, ``lift`` (mean share / mean of chance; chance is 1), ``sd`` (of that under
        the Haar null), ``z`` = (lift − 1)/sd, ``matrices``.
    """
    return _lifts(tables, tuple(by), fraction, step)


@once_per_run
def _shares(tables: Tables, fraction: float) -> pd.DataFrame:
    """Return the projection rows of every step with their null's spread."""
    return share_rows(tables, fraction)


def _shares_at(tables: Tables, fraction: float, step: int | None) -> pd.DataFrame:
    rows = _shares(tables, fraction)
    return rows if step is None else rows[rows["step"] == step]


@once_per_run
def _lifts(tables: Tables, by: tuple[str, ...], fraction: float, step: int | None) -> pd.DataFrame:
    keys = [*by, "side", "subspace"]
    groups = _shares_at(tables, fraction, step).groupby(keys, sort=True, dropna=False)
    rows = [{**dict(zip(keys, key, strict=True)), **_mean_lift(group)} for key, group in groups]
    columns = [*keys, "lift", "sd", "z", "matrices"]
    return pd.DataFrame(rows, columns=columns)


def _mean_lift(group: pd.DataFrame) -> dict[str, float]:
    mean = mean_share(group)
    return {"lift": mean.lift, "sd": mean.sd, "z": mean.z, "matrices": mean.matrices}


@once_per_run
def grid(tables: Tables, metric: str, *, step: int, side: Side = "left", fraction: float = FRACTION) -> pd.DataFrame:
    """Return a layer × module type grid of ``metric`` at ``step``: the mean per cell, NaN where there is no matrix.

    Parameters
    ----------
    metric
        A number column of ``modules``, or ``principal_lift`` or ``minor_lift`` (on ``side``, at ``fraction``).

    Returns
    -------
    pd.DataFrame
        Index: layer, with −1 for modules outside the blocks. Columns: kind. Kinds without a value are left out.

    Raises
    ------
    UsageError
        If there is no such metric.
    """
    subspace, _, suffix = metric.partition("_")
    if suffix == "lift" and subspace in get_args(Subspace):
        check(side, Side, "side")
        rows = _shares_at(tables, fraction, step)
        rows = rows[(rows["side"] == side) & (rows["subspace"] == subspace)].assign(value=lambda f: f["lift"])
    elif metric in tables.modules.select_dtypes("number").columns:
        rows = tables.resolved_modules().assign(value=lambda modules: modules[metric].astype("float64"))
    else:
        raise UsageError(f"{metric!r} is no column of the modules table", where="metric", hint="see SCHEMAS['modules']")
    rows = rows[(rows["step"] == step) & rows["value"].notna()]
    rows = rows.assign(layer=rows["layer"].fillna(-1).astype("int64"))
    cells = rows.pivot_table(index="layer", columns="kind", values="value", aggfunc="mean", observed=True)
    return cells.reindex(columns=order_kinds(rows["kind"]))


@once_per_run
def by_step(tables: Tables, column: str) -> pd.DataFrame:
    """Return median and 10–90 % quantiles over matrices of a ``modules`` column: step, median, low, high, modules.

    Vectors (norms, biases) count only where nothing else trains: they would dilute the matrices.
    """
    modules = tables.resolved_modules()
    matrices = modules[modules["in_features"].notna()]
    rows = modules if matrices.empty else matrices
    values = rows.assign(value=rows[column].astype("float64")).dropna(subset=["value"])
    groups = values.groupby("step")["value"]
    low, high = QUANTILES
    summary = pd.DataFrame(
        {
            "median": groups.median(),
            "low": groups.quantile(low),
            "high": groups.quantile(high),
            "modules": groups.size(),
        }
    )
    return summary.reset_index()


@once_per_run
def kinds(tables: Tables, *, step: int, fraction: float = FRACTION) -> pd.DataFrame:
    """Return one row per module type at ``step``: median size and rank of the update, lifts and their z.

    Returns
    -------
    pd.DataFrame
        Columns: kind, modules, relative_fro, effective_rank (medians), and for every subspace and side
        ``{subspace}_{side}`` (lift) and ``z_{subspace}_{side}``.
    """
    now = tables.resolved_modules().query("step == @step")
    groups = now.groupby("kind", sort=False)
    summary = groups[["relative_fro", "effective_rank"]].median().assign(modules=groups.size())
    table = lifts(tables, ["kind"], fraction, step).set_index("kind")
    for subspace in get_args(Subspace):
        for side in get_args(Side):
            part = table[(table["side"] == side) & (table["subspace"] == subspace)]
            summary[f"{subspace}_{side}"] = part["lift"]
            summary[f"z_{subspace}_{side}"] = part["z"]
    return summary.loc[order_kinds(now["kind"])].reset_index(names="kind")


@once_per_run
def curve(tables: Tables, column: str) -> pd.DataFrame:
    """Return a training curve: step, value, smooth (running mean over a twentieth of it).

    Only finite values. An unknown column gives a frame without rows: the run did not log it.
    """
    if column not in tables.series.columns:
        return pd.DataFrame({"step": [], "value": [], "smooth": []}, dtype="float64")
    values = tables.series[column].astype("float64").replace([np.inf, -np.inf], np.nan)
    points = pd.DataFrame({"step": tables.series["step"], "value": values}).dropna().sort_values("step")
    window = smoothing_window(len(points))
    smooth = points["value"].rolling(window, center=True, min_periods=1).mean()
    return points.assign(smooth=smooth).reset_index(drop=True)


def smoothing_window(points: int) -> int:
    """Return the odd width of the running mean: 1 (none) for fewer than 40 points.

    >>> smoothing_window(30), smoothing_window(64), smoothing_window(1024)
    (1, 3, 51)
    """
    return 1 if points < 40 else points // 20 // 2 * 2 + 1


def accuracy_columns(tables: Tables) -> list[str]:
    """Return the columns of the series that hold an evaluation accuracy."""
    return [str(name) for name in tables.series.columns if "eval" in str(name) and "accuracy" in str(name)]
