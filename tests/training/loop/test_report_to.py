"""The logged numbers go where the recipe says, with what the callbacks add to them."""

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from spectra.errors import MissingDependencyError
from spectra.training.loop.report_to import check_reports
from spectra.training.loop.run import train
from spectra.training.recipe.recipe import Recipe

Maker = Callable[..., Recipe]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """A stand-in for tensorboard, behind transformers' own callback; returns name and step of what is written."""
    seen: list[tuple[str, int]] = []

    class SummaryWriter:
        def __init__(self, log_dir: str) -> None:
            self.log_dir = log_dir

        def add_scalar(self, name: str, value: float, step: int) -> None:
            seen.append((name, step))

        def __getattr__(self, name: str) -> Callable[..., None]:
            return lambda *given: None

    package = ModuleType("tensorboard")
    package.__spec__ = ModuleSpec("tensorboard", None)
    writers = ModuleType("torch.utils.tensorboard")
    writers.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorboard", package)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", writers)
    return seen


def test_tensorboard_gets_every_step_with_its_evaluation(
    written: list[tuple[str, int]], recipe_for: Maker, tmp_path: Path
) -> None:
    train(recipe_for(report_to=["tensorboard"]), tmp_path / "run", quiet=True)
    assert {("train/reward", 1), ("train/reward", 2), ("eval/accuracy", 1), ("eval/accuracy", 2)} <= set(written)


def test_nothing_is_reported_by_default(written: list[tuple[str, int]], recipe_for: Maker, tmp_path: Path) -> None:
    train(recipe_for(steps=1, evaluation={"every": None}), tmp_path / "run", quiet=True)
    assert written == []


def test_a_missing_package_is_one_line_and_nothing_is_written(
    recipe_for: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spectra.training.loop.report_to.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError) as caught:
        train(recipe_for(report_to=["wandb"]), tmp_path / "run", quiet=True)
    assert str(caught.value) == "report_to: wandb is not installed; pip install wandb"
    assert not (tmp_path / "run").exists()


def test_nothing_to_report_to_needs_nothing() -> None:
    check_reports([])


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_the_recipe_names_them(name: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("spectra.training.loop.report_to.find_spec", lambda package: asked.append(package) or object())
    check_reports(Recipe.model_validate({"report_to": [name]}).report_to)
    assert asked == [name]
