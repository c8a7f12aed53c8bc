"""Every recipe that ships loads, and every run of the study has a twin that runs here."""

from pathlib import Path

import pytest

from spectra.training.methods import STUDY
from spectra.training.studies.study import load_study

PAPER = Path(__file__).parents[3] / "training" / "paper"
STUDIES = sorted(PAPER.rglob("*.yaml"))
TWINS = {
    "text": ["text-1.5b", "text-7b"],
    "released": ["released-1.5b"],
    "ablations": ["ablations-1.5b"],
    "tuned": ["tuned-1.5b", "tuned-7b"],
}


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: str(path.relative_to(PAPER)))
def test_every_study_loads(path: Path) -> None:
    study = load_study(path)
    embedded = path.parent.name == "embedded"
    for recipe in study.recipes.values():
        assert (recipe.model.base == "embedded") == embedded
        if not embedded:
            assert recipe.task.data == "open-r1/DAPO-Math-17k-Processed"
            assert (recipe.seed, recipe.algorithm.generations, recipe.snapshots.every) == (42, 8, 64)


@pytest.mark.parametrize(("twin", "originals"), TWINS.items())
def test_twins_have_the_same_runs(twin: str, originals: list[str]) -> None:
    here = load_study(PAPER / "embedded" / f"{twin}.yaml").recipes
    for name in originals:
        there = load_study(PAPER / f"{name}.yaml").recipes
        pairs = zip(sorted(there), sorted(here), strict=True)
        # A twin of a sweep of rates has rates of its own, and says so in the names of the runs.
        assert all(left == right or left.startswith("rate-") == right.startswith("rate-") for left, right in pairs)
        known = set(there) & set(here)
        assert all(there[run].method.name == here[run].method.name for run in known)
        assert all(there[run].algorithm.name == here[run].algorithm.name for run in known)


@pytest.mark.parametrize("name", ["text-1.5b", "text-7b"])
def test_the_study_has_every_method(name: str) -> None:
    recipes = load_study(PAPER / f"{name}.yaml").recipes
    assert {recipe.method.name for recipe in recipes.values()} == {method.name for method in STUDY}
    factors = [recipe.method for run, recipe in recipes.items() if run in ("lora", "dora", "pissa", "rslora")]
    assert all((method.r, method.alpha, method.dropout) == (32, 64, 0.05) for method in factors)


def test_what_the_release_ran_differs_from_the_text() -> None:
    text, released = (load_study(PAPER / f"{name}-1.5b.yaml").recipes for name in ("text", "released"))
    differing = {run for run in set(text) & set(released) if text[run].method != released[run].method}
    assert {"lora", "lora_plus", "milora", "vera", "miss", "ia3", "layernorm"} <= differing
    assert "dora" not in differing
