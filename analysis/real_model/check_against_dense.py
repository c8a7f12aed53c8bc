"""Recompute every number of ``spectra analyze``'s tables densely in float64, and print each column's largest error.

::

    spectra analyze runs/real/run --base runs/real/base
    python analysis/real_model/check_against_dense.py runs/real/base runs/real/run --report reports/dense_check.md

ΔW is peft's ``merge_and_unload`` in float64 minus the original base, or checkpoint minus base for full fine-tuning.
What is under the rounding of W + ΔW − W, eps·‖W‖_F, is no update. The numbers are those of ``tests/oracles.py``.
Exit code 1 if a row is missing or too many, or if an error exceeds 1e-6 of the column's scale:

share, update_share   the number itself, or what chance gives if that is more: a share is read against its null
lift                  the same: the number itself, or 1
z                     the same, divided by the null's standard deviation
base_share            the number itself, or 1/q: the last singular values of an ill-conditioned W are rounding
sigma                 the number itself; the rounding of W + ΔW − W, eps·‖W‖_F, is allowed on top
numerical_rank        1: counts must be equal. The dense count leaves out what lies under that rounding, because only
                      the dense way makes it
outside_*             the number itself, or what chance gives if that is more
all others            the number itself

The column of plain relative errors has no such scales: it shows what they forgive.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the oracles live with the tests, which are not installed

from spectra.errors import CorruptFileError, RunNotFoundError, SpectraError
from spectra.runs.layout import ADAPTER_CONFIG, AnalysisLayout, RunLayout, parse_checkpoint, parse_step
from spectra.runs.tables import SCHEMAS, read_table
from tests import oracles

TOLERANCE = 1e-6
KEYS = {
    "modules": ["step", "module"],
    "projection": ["step", "module", "side", "subspace", "fraction"],
    "profile": ["step", "module", "side", "bin"],
    "spectrum": ["step", "module", "index"],
}
EPS = float(np.finfo(np.float64).eps)


class ColumnError(NamedTuple):
    """The worst disagreement of one column."""

    table: str
    column: str
    numbers: int
    relative: float  # largest |table − dense| / |dense|, wherever dense is not zero
    scaled: float  # largest |table − dense| / scale, what is judged


def snapshot_directories(run: Path) -> dict[int, Path]:
    """Return the directory of every step: HF Trainer checkpoints, or the snapshots of a spectra run."""
    layout = RunLayout(run)
    found = {parse_checkpoint(path.name): path for path in run.glob("checkpoint-*")}
    found |= {parse_step(path.name): path for path in layout.snapshots.glob("step_*")}
    steps = {step: path for step, path in found.items() if step is not None}
    if not steps:
        raise RunNotFoundError("holds no snapshot", where=run, hint="give a run with checkpoint-N directories")
    return dict(sorted(steps.items()))


def initial_adapter(steps: dict[int, Path]) -> Path | None:
    """Return the step-0 adapter if this method moved the base at initialisation."""
    last = list(steps.values())[-1]
    config = json.loads((last / ADAPTER_CONFIG).read_text())
    return steps.get(0) if str(config.get("init_lora_weights")).startswith(oracles.MOVES_BASE) else None


def dense_updates(base: Path, path: Path, steps: dict[int, Path]) -> dict[str, oracles.Matrix]:
    """Return ΔW of every changed parameter of one snapshot, in float64."""
    if (path / ADAPTER_CONFIG).exists():
        return oracles.merged_minus_base_float64(base, path, initial_adapter(steps))
    old, new = oracles.base_weights_float64(base), oracles.base_weights_float64(path)
    return {module: new[module] - old[module] for module in old}


def dense_tables(base: Path, run: Path) -> dict[str, pd.DataFrame]:
    """Return the four tables of a run, worked out by the oracles, with the columns that only the comparison needs."""
    rows: dict[str, list[oracles.Row]] = {name: [] for name in KEYS}
    steps = snapshot_directories(run)
    weights = oracles.base_weights_float64(base)
    bases: dict[str, oracles.Basis] = {}
    for step, path in steps.items():
        deltas = dense_updates(base, path, steps)
        for module, delta in deltas.items():
            if delta.ndim == 1:
                vector = oracles.modules_row(delta, weights[module]) | {"out_features": len(delta), "in_features": None}
                rows["modules"] += [{"step": step, "module": module} | vector]
                continue
            if module not in bases:
                bases[module] = oracles.singular_basis(weights[module])
            for name, part in _module_tables(delta, weights[module], bases[module]).items():
                rows[name] += [{"step": step, "module": module} | row for row in part]
        print(f"step {step}: {len(deltas)} modules recomputed", flush=True)
    return {name: pd.DataFrame(part) for name, part in rows.items()}


def _module_tables(delta: oracles.Matrix, weight: oracles.Matrix, basis: oracles.Basis) -> dict[str, list[oracles.Row]]:
    floor = EPS * float(np.linalg.norm(weight))
    delta = delta if float(np.linalg.norm(delta)) > floor else np.zeros_like(delta)
    sigma = oracles.spectrum_sigma(delta)
    row = oracles.modules_row(delta, weight, basis) | {"out_features": delta.shape[0], "in_features": delta.shape[1]}
    if sigma[0] > 0:
        row["numerical_rank"] = int(np.sum(sigma > max(delta.shape) * EPS * sigma[0] + floor))
    return {
        "modules": [row],
        "projection": oracles.projection_rows(delta, weight, basis=basis),
        "profile": [bin_row | {"q": min(delta.shape)} for bin_row in oracles.profile_rows(delta, weight, basis=basis)],
        "spectrum": [{"index": i, "sigma": float(s), "floor": floor} for i, s in enumerate(sigma)],
    }


def compare(tables: dict[str, pd.DataFrame], dense: dict[str, pd.DataFrame]) -> list[ColumnError]:
    """Return the worst error of every number column of every table.

    Raises
    ------
    CorruptFileError
        If a table has a row too many or too few, or twice.
    """
    return [error for name in KEYS for error in _compare_table(name, tables[name], dense[name])]


def _compare_table(name: str, table: pd.DataFrame, dense: pd.DataFrame) -> Iterator[ColumnError]:
    if table.duplicated(KEYS[name]).any():
        raise CorruptFileError("has a row twice", where=f"table {name}")
    both = table[list(SCHEMAS[name])].merge(dense, on=KEYS[name], how="outer", suffixes=("", "_dense"), indicator=True)
    if name == "spectrum":
        # A factored ΔW has only as many singular values as its rank: the dense rest must be rounding, below the floor.
        both = both[(both["_merge"] != "right_only") | (both["sigma_dense"] > both["floor"])]
    unmatched = both[both["_merge"] != "both"]
    if len(unmatched):
        first = unmatched.iloc[0]
        place = ", ".join(f"{key} {first[key]}" for key in KEYS[name])
        side = "table" if first["_merge"] == "left_only" else "dense result"
        raise CorruptFileError(f"{len(unmatched)} rows have no partner, first {place} ({side})", where=f"table {name}")
    for column in [str(column) for column in dense if f"{column}_dense" in both]:
        found, true = (both[key].to_numpy(np.float64, na_value=np.nan) for key in (column, f"{column}_dense"))
        difference = np.where(np.isnan(found) & np.isnan(true), 0.0, np.abs(found - true))
        difference[np.isnan(difference)] = np.inf  # a number on one side only
        relative = difference[true != 0.0] / _usable(np.abs(true[true != 0.0]))
        scaled = difference / _usable(_scale(column, true, both))
        yield ColumnError(name, column, len(both), float(relative.max(initial=0.0)), float(scaled.max(initial=0.0)))


def _scale(column: str, true: oracles.Matrix, both: pd.DataFrame) -> oracles.Matrix:
    """Return what an error is measured in, see the table in the module's docstring."""
    magnitude = np.abs(true)
    if column in ("share", "update_share"):
        magnitude = np.maximum(magnitude, both["expected_dense"])
    elif column in ("outside_left", "outside_right"):
        here, there = ("out_features", "in_features") if column == "outside_left" else ("in_features", "out_features")
        magnitude = np.maximum(magnitude, np.clip(1 - both[f"{there}_dense"] / both[f"{here}_dense"], 0, 1))
    elif column == "lift":
        magnitude = np.maximum(magnitude, 1.0)
    elif column == "z":
        deviation = (both["share_dense"] - both["expected_dense"]) / both["z_dense"]
        magnitude = np.maximum(both["share_dense"], both["expected_dense"]) / deviation
    elif column == "base_share":
        magnitude = np.maximum(magnitude, 1.0 / both["q"])
    elif column == "sigma":
        magnitude = magnitude + both["floor"] / TOLERANCE
    elif column == "numerical_rank":
        magnitude = np.ones_like(true)
    return magnitude


def _usable(scale: oracles.Matrix) -> oracles.Matrix:
    """Return 1 where there is no scale: what must be exactly zero (a share outside a full space), or NaN, has none."""
    return np.where(scale > 0.0, scale, 1.0)


def markdown(errors: Sequence[ColumnError], base: Path, run: Path, steps: Sequence[int]) -> str:
    """Return the result as a page of text."""
    lines = [
        "# Tables against dense float64",
        "",
        f"Base `{base.name}`, run `{run.name}`, steps {', '.join(map(str, steps))}.",
        "ΔW is peft's merge in float64 minus the original base.",
        f"Allowed: {TOLERANCE:g} of the column's scale, which `analysis/real_model/check_against_dense.py` explains.",
        "",
        "| table | column | numbers | largest relative error | largest error on its scale | |",
        "|---|---|---:|---:|---:|---|",
    ]
    for e in errors:
        verdict = "ok" if e.scaled <= TOLERANCE else "TOO LARGE"
        lines.append(f"| {e.table} | {e.column} | {e.numbers} | {e.relative:.1e} | {e.scaled:.1e} | {verdict} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path, help="Hugging Face directory of the original base model")
    parser.add_argument("run", type=Path, help="run with checkpoint-N or snapshots/step_N directories")
    parser.add_argument("--analysis", type=Path, help="analysis directory, RUN/spectra unless given")
    parser.add_argument("--report", type=Path, help="write the table as markdown too")
    options = parser.parse_args(arguments)
    layout = RunLayout(options.run).analysis if options.analysis is None else AnalysisLayout(options.analysis)
    try:
        tables = {name: read_table(name, layout.table(name)) for name in KEYS}
        errors = compare(tables, dense_tables(options.base, options.run))
    except SpectraError as error:
        print(error, file=sys.stderr)
        return 1
    page = markdown(errors, options.base, options.run, sorted(snapshot_directories(options.run)))
    print(page)
    if options.report is not None:
        options.report.parent.mkdir(parents=True, exist_ok=True)
        options.report.write_text(page, encoding="utf-8")
    return int(any(error.scaled > TOLERANCE for error in errors))


if __name__ == "__main__":
    sys.exit(main())
