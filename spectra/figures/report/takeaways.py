"""One sentence per figure: the numbers that it draws, next to chance."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from spectra.figures.data.snapshots import (
    drift_rows,
    last_step,
    map_grid,
    mask_rows,
    null_rows,
    rounding_floor,
)
from spectra.figures.data.summaries import (
    BAND,
    Side,
    analyzed_fraction,
    by_step,
    is_placed,
    lifts,
    only_vectors,
    resolve_step,
)
from spectra.figures.style.formats import number, share, words
from spectra.linalg.nulls.haar_moments import NORMAL_95, walk_cosine
from spectra.runs.tables import Tables
from spectra.statistics.shares import isotropic_rhos

_NAMED = 4
_COMPUTED = {"drift": "how whole matrices moved", "coordinates": "which entries moved", "nulls": "sampled nulls"}


def left_out(tables: Tables) -> str:
    """Say which parts of the page there is nothing to show for, and why; empty where every part is there."""
    if only_vectors(tables):
        parts = ", ".join(["where ΔW lies in the base's spectrum", *_COMPUTED.values()])
        return (
            f"Only vectors train, and a vector has no singular directions: nothing is shown of {parts}, and how the "
            "snapshots relate."
        )
    if not is_placed(tables):
        step = resolve_step(tables, None)
        return f"At step {step} ΔW is 0 or not finite in every matrix: it has no place in the base's spectrum to show."
    missing = [part for name, part in _COMPUTED.items() if tables[name].empty]
    return f"Not computed (spectra analyze --deep last does it): {', '.join(missing)}." if missing else ""


def course(tables: Tables) -> str:
    """Say how large the update is at the end, and of what rank."""
    size, rank = by_step(tables, "relative_fro"), by_step(tables, "effective_rank")
    if size.empty:
        return ""
    said = f"At step {int(size['step'].iloc[-1])} ‖ΔW‖/‖W‖ is {number(float(size['median'].iloc[-1]))}"
    if not rank.empty:
        said += f" and the effective rank {number(float(rank['median'].iloc[-1]))} (medians over matrices)"
    floor = rounding_floor(tables)
    if not floor.empty:
        said += f"; rounding the stored weights alone puts {number(float(floor['floor'].iloc[-1]))} there"
    return f"{said}."


def first_signal(verdict: Mapping[str, Any]) -> str:
    """Say which signal moved first, and what followed."""
    found = verdict.get("signals", [])
    if not found:
        return "No signal left its initial level."
    first, *later = found
    said = f"First, since step {first['onset_step']}: {first['says']}"
    after = [f"{words(entry['signal'])} {_later(entry['onset_step'] - first['onset_step'])}" for entry in later]
    return f"{said}; {', '.join(after)}." if after else f"{said}."


def place(tables: Tables, side: Side) -> str:
    """Say how much the first directions of a side hold, in units of chance."""
    rows = lifts(tables, ["step"])
    rows = rows[
        (rows["step"] == resolve_step(tables, None)) & (rows["side"] == side) & (rows["subspace"] == "principal")
    ]
    if rows.empty:
        return ""
    lift, z = float(rows["lift"].iloc[0]), float(rows["z"].iloc[0])
    first = share(analyzed_fraction(tables))
    what = f"The first {first} of the {side} directions hold {number(lift)} × chance (z {number(z)})"
    return f"{what}: what a random direction gives." if abs(z) < BAND else f"{what}."


def extremes(tables: Tables) -> str:
    """Say which matrices moved most and least."""
    rows = tables.modules[tables.modules["step"] == resolve_step(tables, None)].dropna(subset=["relative_fro"])
    if len(rows) < 2 or rows["relative_fro"].max() == 0:
        return ""
    ordered = rows.sort_values("relative_fro")[["module", "relative_fro"]]
    (least, smallest), (most, largest) = (ordered.iloc[i].tolist() for i in (0, -1))
    return f"Most: {most}, {number(largest)}; least: {least}, {number(smallest)}."


def corner(tables: Tables) -> str:
    """Say what the block of the first directions on both sides, and the last, hold."""
    at = last_step(tables.map)
    cells, _ = map_grid(tables, -1 if at is None else at)
    if cells.empty:
        return ""
    first, last = float(cells.to_numpy()[0, 0]), float(cells.to_numpy()[-1, -1])
    return (
        f"The block of the first directions on both sides holds {number(first)} × chance, that of the last "
        f"{number(last)} ×."
    )


def motion(tables: Tables) -> str:
    """Say how ρ_Σ and κ_spec compare with an isotropic update's."""
    at = last_step(tables.drift)
    rows = drift_rows(tables)
    rows = rows[rows["step"] == at].dropna(subset=["rho_sigma"])
    if rows.empty:
        return ""
    rho, chance = float(rows["rho_sigma"].median()), float(isotropic_rhos(rows).median())
    kappa = float(rows["kappa_spec"].median())
    return (
        f"At step {at} the part of ΔW that changes singular values is {number(rho)}, an isotropic update's "
        f"{number(chance)}; κ_spec is {number(kappa)} beside 1 (medians)."
    )


def entries(tables: Tables) -> str:
    """Say how many entries stayed, and how often small ones moved, beside noise."""
    at = last_step(tables.coordinates)
    rows = mask_rows(tables, -1 if at is None else at)
    means = rows.groupby("panel")[["value", "expected"]].mean()
    if "unchanged_bf16" not in means.index:
        return ""
    kept, chance = _pair(means, "unchanged_bf16", share)
    said = f"{kept} of the entries did not change (noise: {chance})"
    if "low_magnitude" in means.index:
        low, chance = _pair(means, "low_magnitude", number)
        said += f"; small ones moved {low} × as often as their number suggests (noise: {chance} ×)"
    return f"{said}."


def unexplained(tables: Tables) -> str:
    """Say which metrics no family of nulls explains, and which Gaussian noise alone does not."""
    at = last_step(tables.nulls)
    rows = null_rows(tables, -1 if at is None else at).dropna(subset=["z"])
    if rows.empty:
        return ""
    beyond = rows.assign(beyond=rows["z"].abs() > NORMAL_95).groupby("metric", sort=False)["beyond"]
    never, some, families = beyond.all(), beyond.any(), beyond.size()
    alone = [metric for metric in some.index if never[metric]]
    if alone:
        return f"Not explained by any family of nulls that was computed: {_listed(alone, families)}."
    partly = [metric for metric in some.index if some[metric]]
    if partly:
        return f"Some family of nulls explains every metric; not all of them do for {_listed(partly, families)}."
    return "Every family of nulls that was computed explains every metric: by these numbers the update is noise."


def halfway(tables: Tables) -> str:
    """Say how near the update was to its end halfway, beside a random walk."""
    cosine = tables.trajectory.dropna(subset=["cos_final"]).groupby("step")["cos_final"].median()
    steps = [step for step in cosine.index if 0 < step < cosine.index.max()]
    if not steps:
        return ""
    last = int(cosine.index.max())
    at = min(steps, key=lambda step: abs(step - last / 2))
    return (
        f"At step {at} of {last} the cosine to the final update is {number(float(cosine[at]))}, that of a random walk "
        f"{number(walk_cosine(at, last))}."
    )


def _later(steps: int) -> str:
    return "at the same step" if steps == 0 else f"{steps} step{'s' * (steps != 1)} later"


def _pair(means: pd.DataFrame, panel: str, write: Any) -> tuple[str, str]:
    return write(float(means["value"][panel])), write(float(means["expected"][panel]))


def _listed(metrics: list[str], families: "pd.Series[int]") -> str:
    """Return the first metrics, each with the number of families that it was compared with."""
    counts = [int(families[metric]) for metric in metrics[:_NAMED]]
    named = [f"{words(m)} ({n} famil{'y' if n == 1 else 'ies'})" for m, n in zip(metrics, counts, strict=False)]
    more = f" and {len(metrics) - _NAMED} more" if len(metrics) > _NAMED else ""
    return ", ".join(named) + more
