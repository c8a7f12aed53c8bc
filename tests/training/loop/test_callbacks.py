"""Each callback's one concern, without a trainer."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from spectra.errors import DivergedError
from spectra.runs.layout import RunLayout
from spectra.training.distributed.processes import Processes
from spectra.training.loop.callbacks import (
    Callback,
    DivergenceCallback,
    MetricsCallback,
    ProgressCallback,
    SnapshotCallback,
)
from spectra.training.loop.progress import BarReporter, PlainReporter, Reporter, describe, log_reporter, reporting
from spectra.training.recipe.recipe import Recipe


def state(step: int) -> Any:
    return SimpleNamespace(global_step=step, max_steps=10)


def test_every_event_that_is_not_overridden_does_nothing() -> None:
    assert Callback().on_epoch_begin(None, None, None, model=None) is None
    with pytest.raises(AttributeError):
        Callback().epoch_begin  # noqa: B018 - the access is the test


def test_the_trainer_knows_no_event_that_callbacks_do_not_answer() -> None:
    from transformers import TrainerCallback

    events = [name for name in dir(TrainerCallback) if name.startswith("on_")]
    assert len(events) > 10
    assert all(callable(getattr(Callback(), event)) for event in events)


def test_snapshots_follow_the_schedule_and_the_last_comes_at_the_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    saved: list[int] = []
    monkeypatch.setattr(
        "spectra.training.loop.callbacks.save_snapshot", lambda model, layout, step, *base, **form: saved.append(step)
    )
    callback = SnapshotCallback(Recipe.model_validate({"steps": 10, "snapshots": {"every": 4}}), RunLayout(tmp_path))
    callback.on_train_begin(None, state(0), None, model=None)
    for step in range(1, 11):
        callback.on_step_end(None, state(step), None, model=None)
    assert saved == [0, 4, 8]
    callback.on_train_end(None, state(10), None, model=None)
    assert saved == [0, 4, 8, 10]


def test_a_resumed_run_keeps_its_step_zero(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("spectra.training.loop.callbacks.save_snapshot", lambda *a, **k: pytest.fail("saved"))
    SnapshotCallback(Recipe(), RunLayout(tmp_path)).on_train_begin(None, state(20), None, model=None)


def test_metrics_are_appended_and_the_summary_is_not(tmp_path: Path) -> None:
    callback = MetricsCallback(RunLayout(tmp_path))
    callback.on_log(None, state(1), None, logs={"loss": "0.5", "frac_reward_zero_std": 1, "note": "text"})
    callback.on_log(None, state(1), None, logs={"train_runtime": 3.0})
    (line,) = RunLayout(tmp_path).metrics.read_text().splitlines()
    assert json.loads(line) == {"step": 1, "loss": 0.5, "zero_advantage_share": 1.0}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_stops_before_the_step(value: float, tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    stop = DivergenceCallback(RunLayout(tmp_path))
    stop.on_pre_optimizer_step(None, state(4), None, model=model)
    model.weight.grad = torch.zeros(2, 2)
    stop.on_pre_optimizer_step(None, state(4), None, model=model)
    model.weight.grad[0, 1] = value
    with pytest.raises(
        DivergedError, match=r"gradient of weight at step 5 is not finite; lower optimizer\.learning_rate"
    ):
        stop.on_pre_optimizer_step(None, state(4), None, model=model)


@pytest.mark.parametrize("value", [float("nan"), "inf"])
def test_a_norm_that_is_not_finite_stops_where_gradients_are_not_seen(value: Any, tmp_path: Path) -> None:
    stop = DivergenceCallback(RunLayout(tmp_path))
    stop.on_log(None, state(4), None, logs={"grad_norm": "0.5"})
    stop.on_log(None, state(4), None, logs={"train_runtime": 3.0})
    with pytest.raises(DivergedError, match="the norm of the gradient at step 4 is not finite"):
        stop.on_log(None, state(4), None, logs={"grad_norm": value})
    assert json.loads(RunLayout(tmp_path).metrics.read_text())["step"] == 4


def test_a_gradient_of_another_process_stops_this_one_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Processes, "gather", lambda self, found: [found, "layers.3.weight"])
    stop = DivergenceCallback(RunLayout(tmp_path), Processes(1, 2))
    with pytest.raises(DivergedError, match=r"gradient of layers\.3\.weight at step 5"):
        stop.on_pre_optimizer_step(None, state(4), None, model=torch.nn.Linear(2, 2))
    assert not RunLayout(tmp_path).metrics.exists()  # the main process writes


def test_the_others_take_part_in_snapshots_and_write_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wrote: list[bool] = []
    monkeypatch.setattr("spectra.training.loop.callbacks.save_snapshot", lambda *a, **k: wrote.append(k["writes"]))
    for processes in (Processes(0, 2), Processes(1, 2)):
        SnapshotCallback(Recipe(), RunLayout(tmp_path), processes).on_train_begin(None, state(0), None, model=None)
    assert wrote == [True, False]


class Listener(Reporter):
    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []

    def step(self, step: int, last: int, metrics: Any) -> None:
        self.steps.append((step, last))


def test_progress_is_every_step() -> None:
    listener = Listener()
    callback = ProgressCallback(listener)
    for step in (1, 2):
        callback.on_log(None, state(step), None, logs={"loss": 1.0})
    callback.on_log(None, state(2), None, logs={"train_runtime": 3.0})
    assert listener.steps == [(1, 10), (2, 10)]


def test_a_log_shows_a_dozen_lines_and_every_evaluation(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = PlainReporter()
    for step in range(1, 121):
        reporter.step(step, 120, {"reward": 0.5, **({"eval_accuracy": 0.25} if step == 33 else {})})
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "step 10/120 reward 0.50"
    assert "step 33/120 reward 0.50 accuracy 0.25" in lines
    assert len(lines) == 13


def test_a_log_of_slow_steps_says_how_long_it_will_take(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(0, 10000, 40))
    monkeypatch.setattr("spectra.training.loop.progress.time.monotonic", lambda: float(next(clock)))
    reporter = PlainReporter()
    for step in range(7, 13):  # a resumed run
        reporter.step(step, 12, {"reward": 0.5})
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "step 7/12 reward 0.50"
    assert lines[1] == "step 8/12 reward 0.50, 3 min left"
    assert lines[-1] == "step 12/12 reward 0.50"


def test_the_bar_knows_the_speed_of_slow_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with reporting(quiet=False) as reporter:
        assert isinstance(reporter, BarReporter)
        clock = iter(range(0, 100000, 90))
        monkeypatch.setattr(reporter._bar, "get_time", lambda: float(next(clock)))
        for step in range(1, 5):
            reporter.step(step, 10, {"reward": 0.5})
        (task,) = reporter._bar.tasks
        assert task.time_remaining == pytest.approx(6 * 90, rel=0.2)


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    with reporting(quiet=False) as reporter:
        reporter.say("run [a]: starting")
        reporter.step(3, 4, {"reward": 0.5})
    shown = capsys.readouterr().err
    assert "run [a]: starting" in shown
    assert "3/4" in shown
    assert "reward 0.50" in shown


def test_quiet_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with reporting(quiet=True) as reporter:
        reporter.say("x")
        reporter.step(1, 2, {})
    log_reporter(quiet=True).say("x")
    assert capsys.readouterr() == ("", "")
    assert describe({}) == ""
