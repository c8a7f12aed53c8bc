"""The command reads a recipe with its overrides and trains where it is told."""

import json
from pathlib import Path
from typing import Any

import pytest

from spectra.commands.train import outcome, train
from spectra.errors import RecipeError
from spectra.runs.layout import RunLayout
from tests.builders import own_run, small_base


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    seen: dict[str, Any] = {}

    def fake(recipe: Any, out: Path, **flags: bool) -> Path:
        seen.update(recipe=recipe, out=out, **flags)
        return out

    monkeypatch.setattr("spectra.training.loop.run.train", fake)
    return seen


def recipe(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    return path


def test_the_run_is_named_by_its_recipe(called: dict[str, Any], tmp_path: Path) -> None:
    assert train(recipe(tmp_path, "name: mine\n"), overrides=["steps=3"]) == Path("runs/mine")
    assert (called["recipe"].steps, called["overwrite"], called["quiet"]) == (3, False, False)


def test_flags_reach_the_run(called: dict[str, Any], tmp_path: Path) -> None:
    assert train(recipe(tmp_path, ""), out=tmp_path / "x", overwrite=True, quiet=True) == tmp_path / "x"
    assert (called["out"], called["overwrite"], called["quiet"]) == (tmp_path / "x", True, True)


def test_a_faulty_override_never_reaches_the_run(called: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="did you mean 'steps'"):
        train(recipe(tmp_path, ""), overrides=["step=3"])
    assert called == {}


def test_a_study_is_told_from_a_recipe(called: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"r\.yaml: this is a study, not a recipe; use `spectra study`"):
        train(recipe(tmp_path, "name: s\nruns: {a: }\n"))
    assert called == {}


def test_what_a_run_came_to(tmp_path: Path) -> None:
    run = own_run(tmp_path / "run", small_base(tmp_path / "base"))
    layout = RunLayout(run)
    layout.metrics.write_text('{"step": 1, "reward": 0.5}\n{"step": 4, "reward": 0.75, "loss": "nan"}\n')
    found = outcome(run)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["run"], found["method"], found["steps"], found["snapshots"]) == (str(run), "lora", 4, [0, 2, 4])
    assert (found["last"]["step"], found["last"]["reward"], found["last"]["loss"]) == (4, 0.75, None)
