"""Tables made by hand, for rules: every number of a matrix is given as a function of the step."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from spectra.runs.tables import MODULES, PROJECTION, Tables, conform, empty

MODULE_NAMES = tuple(f"model.layers.{layer}.mlp.up_proj" for layer in range(6))
FRACTIONS = (0.05, 0.1, 0.2)

Value = float | Callable[[int], float]

# A healthy update: small, of rank 4, nowhere in particular.
HEALTHY: Mapping[str, Value] = {
    "relative_fro": lambda step: 1e-4 * step,
    "relative_spectral": lambda step: 1e-4 * step,
    "effective_rank_energy": 3.5,
    "participation_ratio": 3.0,
    "top1_energy": 0.4,
    "rank_bound": 4,
    "numerical_rank": 4,
    "weight_fro": 10.0,
    "rounding_fro": 0.0,
}


def made(
    steps: Sequence[int] = (10, 20, 40),
    *,
    share: Value = 0.01,
    subspace: str = "principal",
    series: pd.DataFrame | None = None,
    **columns: Value,
) -> Tables:
    """Return tables of six 48 × 24 matrices; ``share`` is the joint share of one subspace at every fraction."""
    values = {**HEALTHY, **columns}
    modules = pd.DataFrame([_module(step, name, values) for step in steps for name in MODULE_NAMES])
    rows = [
        _projection(step, name, fraction, kind, _at(share, step) if kind == subspace else 0.01)
        for step in steps
        for name in MODULE_NAMES
        for fraction in FRACTIONS
        for kind in ("principal", "minor")
    ]
    return Tables(
        conform("modules", modules.reindex(columns=list(MODULES))),
        conform("projection", pd.DataFrame(rows).reindex(columns=list(PROJECTION))),
        empty("profile"),
        empty("spectrum"),
        pd.DataFrame({"step": pd.Series(dtype="int64")}) if series is None else series,
    )


def log(every: int = 1, **curves: Any) -> pd.DataFrame:
    """Return a log with a line every ``every`` steps."""
    count = len(next(iter(curves.values())))
    return pd.DataFrame({"step": np.arange(1, count + 1) * every, **curves})


def noisy(levels: Any, noise: float = 0.02, seed: int = 0) -> Any:
    """Return levels with white noise, kept between 0 and 1."""
    levels = np.asarray(levels, dtype=float)
    return np.clip(levels + noise * np.random.default_rng(seed).normal(size=len(levels)), 0, 1)


RISING = tuple(np.linspace(0.3, 0.7, 60))
FLAT = (0.3,) * 60


def _at(value: Value, step: int) -> float:
    return value(step) if callable(value) else value


def _module(step: int, name: str, values: Mapping[str, Value]) -> dict[str, Any]:
    found = {column: _at(value, step) for column, value in values.items()}
    return {
        "step": step,
        "module": name,
        "layer": int(name.split(".")[2]),
        "kind": "up_proj",
        "out_features": 48,
        "in_features": 24,
        "method": "lora",
        "delta_fro": found["relative_fro"] * found["weight_fro"],
        **found,
    }


def _projection(step: int, name: str, fraction: float, subspace: str, share: float) -> dict[str, Any]:
    k = max(1, round(fraction * 24))
    expected = k * k / (48 * 24)
    where = {"step": step, "module": name, "side": "joint", "subspace": subspace, "fraction": fraction, "k": k}
    return {**where, "share": share, "expected": expected, "lift": share / expected, "z": 0.0}
