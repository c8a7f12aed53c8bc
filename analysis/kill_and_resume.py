"""Is a run that was killed and resumed the run that was not? SIGKILL at random moments, compared bit for bit.

    python analysis/kill_and_resume.py --out runs/kill_and_resume --report reports/kill_and_resume.md

One run of the embedded base is left alone. Each other run of the same recipe is started anew, its whole process group
killed with SIGKILL at a moment drawn uniformly over the first one's life (start of Python and end of training
included), and called again with the same words. Compared are the tensors of every snapshot, the generations of every
evaluation, and every logged number but the step's duration.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from spectra.config import Document, build, dump
from spectra.runs.layout import RunLayout, parse_step
from spectra.runs.snapshots import collect
from spectra.training.loop.checkpoints import newest_checkpoint
from spectra.training.recipe.recipe import Recipe
from spectra.weights.storage.tensors import TensorStore


@dataclass(frozen=True)
class Trial:
    """One killed run.

    Attributes
    ----------
    seconds
        Life of the process until it was killed.
    logged
        Last step in the log at that moment; None before the first.
    checkpoint
        Step that the run then went on from; None where it started again.
    differences
        What is not as in the run that was left alone.
    """

    seconds: float
    logged: int | None
    checkpoint: int | None
    differences: list[str]


def recipe(method: str, steps: int) -> Recipe:
    """Return the embedded base's default, shorter, with checkpoints and snapshots closer together."""
    value = {
        "name": "kill-and-resume",
        "method": {"name": method},
        "steps": steps,
        "snapshots": {"every": 5},
        "checkpoints": {"every": 5},
        "evaluation": {"every": 10},
    }
    return build(Recipe, Document(value))


def start(file: Path, out: Path) -> "subprocess.Popen[bytes]":
    """Start ``spectra train`` as the leader of a process group of its own."""
    words = [sys.executable, "-m", "spectra", "train", str(file), "--out", str(out), "--quiet"]
    return subprocess.Popen(words, env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True)


def finish(file: Path, out: Path) -> float:
    """Train to the end; return how many seconds it took."""
    began = time.monotonic()
    code = start(file, out).wait()
    if code:
        raise SystemExit(f"{out}: training ended with code {code}")
    return time.monotonic() - began


def kill(file: Path, out: Path, seconds: float) -> bool:
    """Start training, and kill it after so many seconds; return False where it was faster."""
    process = start(file, out)
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    return False


def contents(layout: RunLayout) -> dict[str, Any]:
    """Return everything that a run is for, by name."""
    found: dict[str, Any] = {}
    for snapshot in collect(layout.snapshots.iterdir(), parse_step).snapshots:
        for file in snapshot.path.glob("*.safetensors"):
            tensors = TensorStore.open_file(file)
            found |= {f"{snapshot.path.name} {name}": tensors[name] for name in tensors}
    for file in layout.evaluations.rglob("*.jsonl"):
        found[f"evaluation {file.stem}"] = file.read_bytes()
    for row in logged(layout):
        found[f"log of step {row['step']}"] = {key: value for key, value in row.items() if key != "step_time"}
    return found


def logged(layout: RunLayout) -> list[dict[str, Any]]:
    """Return the rows of the log; a killed run may have torn the last."""
    rows = []
    for line in layout.metrics.read_text(encoding="utf-8").splitlines() if layout.metrics.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Return the names of what differs, in bits."""
    return [name for name in sorted({*ours, *theirs}) if not equal(ours.get(name), theirs.get(name))]


def equal(one: Any, other: Any) -> bool:
    """Return whether two things have the same bits."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape
        return same and torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))
    return type(one) is type(other) and bool(one == other)


def attempt(file: Path, out: Path, seconds: float, expected: Mapping[str, Any]) -> Trial | None:
    """Kill one run, resume it, and compare; None where it ended before it could be killed."""
    shutil.rmtree(out, ignore_errors=True)
    if not kill(file, out, seconds):
        return None
    layout = RunLayout(out)
    rows, checkpoint = logged(layout), newest_checkpoint(layout)
    finish(file, out)
    last = rows[-1]["step"] if rows else None
    return Trial(seconds, last, checkpoint and checkpoint[1], differing(contents(layout), expected))


def report(trials: Sequence[Trial], method: str, steps: int, compared: int) -> str:
    """Return the study as markdown."""
    equals = sum(not trial.differences for trial in trials)
    lines = [
        "# Killed and resumed",
        "",
        f"{method} on the embedded base, {steps} steps of 32 prompts × 8 generations, a checkpoint every 5 steps.",
        "SIGKILL to the process group at random moments; made by `python analysis/kill_and_resume.py`, which says how.",
        "",
        f"Of {len(trials)} runs that were killed and called again with the same words, **{equals} end with the very",
        f"bits** of the run that was left alone: {compared} tensors, evaluations and logged records each.",
        "",
        "| killed after | last logged step | went on from | bits that differ |",
        "|---:|---:|---:|---|",
    ]
    for trial in sorted(trials, key=lambda trial: trial.seconds):
        at = "before the first" if trial.logged is None else str(trial.logged)
        differ = ", ".join(trial.differences[:3]) or "none"
        lines.append(f"| {trial.seconds:.1f} s | {at} | {trial.checkpoint or 'the start'} | {differ} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every trial and write the report; 1 where any differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where the runs go")
    parser.add_argument("--report", type=Path, help="write the study as markdown")
    parser.add_argument("--method", default="lora")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "recipe.yaml"
    file.write_text(dump(recipe(options.method, options.steps)), encoding="utf-8")
    alone = RunLayout(options.out / "alone")
    shutil.rmtree(alone.root, ignore_errors=True)
    life, moments = finish(file, alone.root), random.Random(options.seed)
    expected, trials = contents(alone), list[Trial]()
    while len(trials) < options.kills:
        trial = attempt(file, options.out / "killed", moments.uniform(0, life), expected)
        if trial is not None:
            trials.append(trial)
            print(trial, flush=True)
    if options.report is not None:
        options.report.write_text(report(trials, options.method, options.steps, len(expected)), encoding="utf-8")
    return int(any(trial.differences for trial in trials))


if __name__ == "__main__":
    sys.exit(main())
