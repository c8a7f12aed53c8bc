"""A run that is killed with SIGKILL and resumed ends with the very bits of one that was not."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from spectra.config import dump
from spectra.runs.layout import TRAINER_STATE, RunLayout
from spectra.runs.series import append_metrics
from spectra.training.loop.run import train
from spectra.training.recipe.recipe import Recipe

Maker = Callable[..., Recipe]
SCRIPT = Path(__file__).parent / "train_with_reward.py"


def start(recipe: Recipe, out: Path) -> "subprocess.Popen[str]":
    file = out.with_suffix(".yaml")
    file.write_text(dump(recipe), encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, str(SCRIPT), str(out), str(file)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def kill_at(recipe: Recipe, out: Path, sign: Path) -> None:
    with start(recipe, out) as process:
        while not sign.exists():
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL


def results(layout: RunLayout) -> dict[str, bytes]:
    """Everything that a run is for: snapshots and evaluations byte by byte."""
    roots = (layout.snapshots, layout.root / "evals")
    return {str(f.relative_to(layout.root)): f.read_bytes() for root in roots for f in root.rglob("*") if f.is_file()}


def curves(layout: RunLayout) -> list[dict[str, float]]:
    """What was logged, line by line, without the one number that is a time."""
    rows = [json.loads(line) for line in layout.metrics.read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "step_time"} for row in rows]


def six_steps(recipe_for: Maker, method: str, beta: float) -> Recipe:
    return recipe_for(
        method={"name": method},
        steps=6,
        micro_batch=8,
        algorithm={"generations": 4, "max_completion_length": 4, "beta": beta},
        optimizer={"learning_rate": 1e-2, "schedule": "cosine", "warmup": 1},
        snapshots={"every": 1},
        checkpoints={"every": 2, "keep": 2},
        evaluation={"every": 2, "problems": 4, "samples": 2},
    )


@pytest.mark.slow
@pytest.mark.usefixtures("easy_reward")
@pytest.mark.parametrize(("method", "beta"), [("lora", 0.05), ("milora", 0.0)])
def test_killed_and_resumed_equals_uninterrupted(
    method: str, beta: float, recipe_for: Maker, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = six_steps(recipe_for, method, beta)
    straight, killed = RunLayout(tmp_path / "straight"), RunLayout(tmp_path / "killed")
    train(recipe, straight.root, quiet=True)

    kill_at(recipe, killed.root, killed.snapshot(5))
    # A crash can also tear the last line, and leave a checkpoint without the state file that is written last.
    with killed.metrics.open("a") as file:
        file.write('{"step": 5, "rew')
    torn = killed.checkpoints / "checkpoint-6"
    shutil.copytree(killed.checkpoints / "checkpoint-4", torn, dirs_exist_ok=True)
    (torn / TRAINER_STATE).unlink()

    train(recipe, killed.root)
    assert "resuming from step 4" in capfd.readouterr().err
    assert results(killed) == results(straight)
    assert curves(killed) == curves(straight)
    assert [row["step"] for row in curves(killed)] == list(range(7))


@pytest.mark.slow
@pytest.mark.usefixtures("easy_reward")
def test_killed_before_the_first_checkpoint_starts_again(
    recipe_for: Maker, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = six_steps(recipe_for, "lora", 0.0)
    straight, killed = RunLayout(tmp_path / "straight"), RunLayout(tmp_path / "killed")
    train(recipe, straight.root, quiet=True)
    kill_at(recipe, killed.root, killed.snapshot(1))
    shutil.rmtree(killed.checkpoints, ignore_errors=True)
    train(recipe, killed.root)
    assert "starting" in capfd.readouterr().err
    assert results(killed) == results(straight)
    assert curves(killed) == curves(straight)


@pytest.mark.slow
@pytest.mark.usefixtures("easy_reward")
def test_killed_after_the_last_step_only_writes_what_is_missing(
    recipe_for: Maker, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = six_steps(recipe_for, "pissa", 0.0)
    layout = RunLayout(train(recipe, tmp_path / "run", quiet=True))
    expected, logged = results(layout), curves(layout)
    shutil.rmtree(layout.snapshot(6))
    append_metrics(layout.metrics, {"step": 7, "reward": 0.0})
    train(recipe, layout.root)
    assert "resuming from step 6" in capfd.readouterr().err
    assert results(layout) == expected
    assert curves(layout) == logged
