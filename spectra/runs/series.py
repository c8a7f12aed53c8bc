"""Training curves: logged metrics by step, under one set of names.

Our own runs append to ``metrics.jsonl``; HF Trainer and TRL runs keep ``log_history`` in ``trainer_state.json``.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from spectra.errors import CorruptFileError
from spectra.runs.atomic import read_json, write_text

# Names that TRL and the HF Trainer log, and ours. Every other number keeps its name, such as our trainer's
# ``frozen_drift``: ‖W − W_start‖/‖W_start‖ over the frozen tensors that changed since training began, 0 if none did.
TRL: Mapping[str, str] = {
    "frac_reward_zero_std": "zero_advantage_share",
    "completions/mean_length": "completion_length",
    "completions/clipped_ratio": "clipped_completions",
    "clip_ratio/low_mean": "clip_low",
    "clip_ratio/high_mean": "clip_high",
    "clip_ratio/region_mean": "clip_ratio",
    "sampling/sampling_logp_difference/mean": "sampler_mismatch",
    "eval/accuracy": "eval_accuracy",
}
# Names that verl logs.
VERL: Mapping[str, str] = {
    "critic/rewards/mean": "reward",
    "actor/entropy": "entropy",
    "actor/kl_loss": "kl",
    "actor/grad_norm": "grad_norm",
    "actor/pg_clipfrac": "clip_ratio",
    "response_length/mean": "completion_length",
    "response_length/clip_ratio": "clipped_completions",
    "training/rollout_probs_diff_mean": "sampler_mismatch",
}
CANONICAL: Mapping[str, str] = {**TRL, **VERL}


# A non-finite value of these means that training broke; other metrics, such as an empty mean, may well be NaN.
_WATCHED = ("loss", "grad_norm", "reward", "entropy", "kl")


def canonical(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a logged record, finite or not, as floats under canonical names.

    >>> canonical({"frac_reward_zero_std": 0.5, "reward": "0.25", "note": "x"})
    {'zero_advantage_share': 0.5, 'reward': 0.25}
    """
    out: dict[str, float] = {}
    for key, value in record.items():
        try:
            out[CANONICAL.get(key, key)] = float(value)
        except (TypeError, ValueError):
            continue
    return out


def append_metrics(path: Path, record: Mapping[str, float | int]) -> None:
    """Append one record as a JSON line, flushed to disk. ``record`` has at least ``step``.

    A number that JSON cannot represent (NaN, ∞) is written as a string and read back as a number.
    """
    values = {key: value if math.isfinite(value) else str(float(value)) for key, value in record.items()}
    values["step"] = int(record["step"])
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(values, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def truncate_metrics(path: Path, last_step: int) -> None:
    """Drop a torn last line and every record after ``last_step``, which a resumed run writes again."""
    if path.exists():
        kept = [record for record in read_records(path) if int(record["step"]) <= last_step]
        write_text(path, "".join(json.dumps(record) + "\n" for record in kept))


def read_metrics(path: Path) -> pd.DataFrame:
    """Read ``metrics.jsonl``: one row per step; later records of a step complete earlier ones.

    Raises
    ------
    CorruptFileError
        If a line other than a torn last one is not a JSON object with a ``step``.
    """
    return series_frame(read_records(path)) if path.exists() else series_frame([])


def read_trainer_state(path: Path) -> pd.DataFrame:
    """Read the logged history of an HF Trainer or TRL run."""
    history = read_json(path).get("log_history") or []
    return series_frame([record for record in history if isinstance(record, dict) and "step" in record])


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return the records of a JSON-lines file, each with an integer ``step``; a torn last line is left out.

    Raises
    ------
    CorruptFileError
        If another line is not a JSON object with a ``step``.
    """
    lines = path.read_text(encoding="utf-8").split("\n")
    records = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            records.append({**record, "step": int(record["step"])})
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines):  # no newline at its end: a crash interrupted the write
                continue
            raise CorruptFileError(
                "is not a JSON object with a step", where=f"{path}:{number}", hint="remove or repair that line"
            ) from error
    return records


def series_frame(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return records as one row per step under canonical names; later records of a step complete earlier ones."""
    by_step: dict[int, dict[str, float]] = {}
    for record in records:
        by_step.setdefault(int(record["step"]), {}).update(canonical(record))
    rows: list[dict[str, float]] = [{**row, "step": step} for step, row in sorted(by_step.items())]
    for row in rows:
        if "clip_ratio" not in row and {"clip_low", "clip_high"} <= row.keys():  # no token is clipped on both sides
            row["clip_ratio"] = row["clip_low"] + row["clip_high"]
        # In a table NaN also means "not logged", so non-finite values are counted separately.
        broken = sum(not math.isfinite(row[name]) for name in _WATCHED if name in row)
        if broken:
            row["non_finite"] = float(broken)
    frame = pd.DataFrame(rows, columns=None if rows else ["step"])
    columns = ["step", *[column for column in frame.columns if column != "step"]]
    return frame[columns].astype({"step": "int64"})
