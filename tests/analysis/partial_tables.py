"""Tables from the columns that a test is about; the others are missing."""

from typing import Any

import pandas as pd

from spectra.runs.tables import SCHEMAS, Tables, conform

_WHOLE = {"modules": {"kind": "q_proj", "method": "lora", "out_features": 64}}


def table(name: str, rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return a table with these rows."""
    frame = pd.DataFrame([_WHOLE.get(name, {}) | row for row in rows])
    return conform(name, frame.reindex(columns=list(SCHEMAS[name])))


def tables(**rows: list[dict[str, Any]]) -> Tables:
    """Return tables of a run; those that are not named are empty."""
    needed = {name: [] for name in ("modules", "projection", "profile", "spectrum", "series")} | rows
    return Tables(**{name: table(name, found) for name, found in needed.items()})


def matrix_row(step: int, layer: int | None, number: int = 0, **columns: Any) -> dict[str, Any]:
    """Return a row of ``modules``: a 64 × 64 matrix that has an update."""
    name = f"model.layers.{layer}.m{number}" if layer is not None else f"outside{number}"
    plain = {"in_features": 64, "relative_fro": 0.01, "delta_fro": 1.0, "participation_ratio": 4.0}
    return {"step": step, "module": name, "layer": layer, **plain, **columns}
