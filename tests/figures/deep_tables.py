"""Rows of the deep tables of a synthetic run: noise near its null, and what the caller plants in it."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from spectra.runs.tables import SCHEMAS

MAP_BINS = 8
NULL_FAMILIES = ("gaussian", "low_rank", "spectrum_matched", "sign_flipped", "permuted", "adam_like")
SHAPE, MOTION = ("gaussian", "low_rank", "sign_flipped"), ("gaussian", "spectrum_matched")
# Value, what Gaussian noise gives, and the families that it is compared with.
NULL_METRICS = {
    "stable_rank": (6.0, 60.0, SHAPE), "effective_rank": (14.0, 80.0, SHAPE),
    "unchanged_bf16": (0.82, 0.8, NULL_FAMILIES), "row_gini": (0.3, 0.07, NULL_FAMILIES),
    "nss": (2.1e-5, 2.0e-5, MOTION), "rho_sigma": (0.11, 0.1, MOTION), "angle_max_k4": (0.4, 0.3, MOTION),
}  # fmt: skip
SUMMARY_METRICS = ("relative_fro", "effective_rank", "stable_rank")
MASKS = {"principal": (0.1, 0.45), "low_magnitude": (0.1, 4.6), "principal_not_low": (0.096, 0.3)}


def filled(name: str, rows: Iterable[dict]) -> pd.DataFrame:
    """Return rows with every column of the table, NaN where a row has none."""
    return pd.DataFrame(list(rows)).reindex(columns=list(SCHEMAS[name]))


def map_rows(rng: np.random.Generator, key: dict, shape: Sequence[int], tilt: float = 0.0) -> Iterable[dict]:
    """Return a map of noise, tilted towards the blocks of the last directions by ``tilt``."""
    side = min(shape) / MAP_BINS
    expected = side * side / math.prod(shape)
    for left in range(MAP_BINS):
        for right in range(MAP_BINS):
            lift = rng.lognormal(0, 0.05) * math.exp(tilt * (left + right - MAP_BINS + 1) / MAP_BINS)
            yield key | {"bin_left": left, "bin_right": right, "share": expected * lift, "expected": expected}


def drift_row(rng: np.random.Generator, key: dict, shape: Sequence[int], relative: float) -> dict:
    """Return the motion of a matrix that a small isotropic update moved."""
    rho = rng.lognormal(0, 0.1) / math.sqrt(max(shape))
    angles = {f"angle_{what}_k{k}": factor * 60 * relative * k**0.7 for k in (1, 4, 16, 64)
              for what, factor in (("max", 1.0), ("mean", 0.4))}  # fmt: skip
    return key | angles | {
        "nss": rho * relative, "nss_error": 3e-13, "rho_sigma": rho, "kappa_spec": rho**2 * max(shape),
        "one_minus_cos": relative**2 / 2, "rotation_head": 20 * relative, "rotation_tail": 900 * relative,
        "intruders": 0, "intruder_energy": 0.0,
    }  # fmt: skip


def coordinates_row(rng: np.random.Generator, key: dict, kind: str, relative: float) -> dict:
    """Return visibility and masks near those of noise; low magnitudes are hit a third less often than by chance."""
    unchanged = math.exp(-relative * 300) * rng.uniform(0.98, 1.02)
    row = key | {"unchanged_bf16": min(unchanged * 1.02, 1), "unchanged_relative": min(unchanged * 1.02, 1),
                 "unchanged_atol": min(unchanged * 1.05, 1), "expected_unchanged_bf16": unchanged,
                 "z_unchanged_bf16": 4.0, "row_gini": 0.3, "column_gini": 0.1, "expected_row_gini": 0.07,
                 "expected_column_gini": 0.07}  # fmt: skip
    for mask, (density, lift) in MASKS.items():
        seen = lift * (0.67 if mask == "low_magnitude" else rng.uniform(0.97, 1.03))
        row |= {f"density_{mask}": density, f"overlap_{mask}": density * seen, f"coverage_{mask}": 0.3,
                f"enrichment_{mask}": seen, f"expected_overlap_{mask}": density * lift,
                f"z_overlap_{mask}": (seen - lift) / 0.05}  # fmt: skip
    return row


def null_rows(rng: np.random.Generator, key: dict) -> Iterable[dict]:
    """Return every metric against every family; only the ranks differ from Gaussian noise."""
    for metric, (value, chance, families) in NULL_METRICS.items():
        for family in families:
            near = (
                chance
                if family in ("gaussian", "adam_like") or metric not in ("stable_rank", "effective_rank")
                else value
            )
            mean, sd = near * rng.uniform(0.98, 1.02), 0.06 * near
            seen = value * rng.uniform(0.95, 1.05)
            yield key | {"metric": metric, "null": family, "value": seen, "expected": mean, "sd": sd,
                         "lo": mean - 1.9 * sd, "hi": mean + 2.1 * sd, "z": (seen - mean) / sd,
                         "p": 0.4, "draws": 64}  # fmt: skip


def trajectory_row(key: dict, shape: Sequence[int], part: float, rank: int) -> dict:
    """Return a snapshot that is ``part`` of the way to the last; LoRA's right side stays at its start."""
    k = min(16, rank)
    moved = {"cos_final": part**0.4, "subspace_final_left": 0.3 + 0.7 * part, "rank1_cos_final": part**0.6,
             "subspace_final_right": 0.97 + 0.03 * part, "linearity": 0.9, "expected_linearity": 0.8,
             "left_at_start": math.nan, "right_at_start": 1 - 0.02 * part}  # fmt: skip
    if part == 0:
        moved = dict.fromkeys(moved, math.nan)
    return key | moved | {"expected_subspace_left": k / shape[0], "expected_subspace_right": k / shape[1],
                          "expected_left_at_start": math.nan, "expected_right_at_start": k / shape[1]}  # fmt: skip


def summary_rows(modules: pd.DataFrame) -> Iterable[dict]:
    """Return means over matrices with an interval of ±10 %."""
    for (step,), group in modules[modules["in_features"].notna()].groupby(["step"]):
        for metric in SUMMARY_METRICS:
            mean = float(group[metric].astype("float64").mean())
            yield {"step": step, "metric": metric, "value": mean, "lo": 0.9 * mean, "hi": 1.1 * mean,
                   "matrices": len(group)}  # fmt: skip
        for side in ("left", "right"):
            yield {"step": step, "metric": f"{side}_principal_lift", "value": 1.0, "lo": 0.97, "hi": 1.03,
                   "expected": 1.0, "matrices": len(group)}  # fmt: skip


def pair_rows(runs: Sequence[str], modules: Sequence[str], cosine: float = 0.2) -> pd.DataFrame:
    """Return every two runs' updates compared, matrix by matrix: cosines rise with the runs' distance in the list."""
    rows = [
        {"run_a": a, "run_b": b, "module": module, "cosine": cosine * (j - i) / len(runs), "z_cosine": 15.0 * (j - i),
         "subspace_left": 0.3, "subspace_right": 0.2, "expected_subspace_left": 0.17, "expected_subspace_right": 0.17,
         "z_subspace_left": 4.0, "z_subspace_right": 1.0, "jaccard": 0.5, "expected_jaccard": 0.4, "z_jaccard": 9.0}
        for i, a in enumerate(runs) for j, b in enumerate(runs) if i < j for module in modules
    ]  # fmt: skip
    return pd.DataFrame(rows)
