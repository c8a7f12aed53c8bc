import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scipy import stats

from spectra.analysis.analyze import Analysis, Options, analyze
from spectra.analysis.compare import compare
from spectra.commands.compare import compare as command
from spectra.runs.directory import RunDirectory
from spectra.runs.layout import RunLayout
from spectra.runs.manifest import Manifest
from spectra.runs.tables import empty
from tests.builders import own_run, small_base


def run(directory: Path, base: Path, *, seed: int, reward: float) -> Path:
    """Write a run of ours with that seed, its rewards around ``reward``."""
    own_run(directory, base, steps=(0, 2))
    layout = RunLayout(directory)
    manifest = Manifest.read(layout.manifest)
    replace(manifest, seed=seed).write(layout.manifest)
    records = [{"step": step, "reward": reward + 0.001 * (step % 3)} for step in range(1, 41)]
    layout.metrics.write_text("".join(json.dumps(record) + "\n" for record in records))
    return directory


@pytest.fixture(scope="module")
def analyses(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Analysis]:
    at = tmp_path_factory.mktemp("runs")
    base = small_base(at / "base", layers=3)
    made = {"a": (0, 0.2), "b": (1, 0.3), "again": (1, 0.5), "c": (2, 0.7)}
    paths = {name: run(at / name, base, seed=seed, reward=reward) for name, (seed, reward) in made.items()}
    paths["dora"] = own_run(at / "dora", base, steps=(0, 2), method="dora")
    other = small_base(at / "other", layers=3, seed=7)
    paths["elsewhere"] = own_run(at / "elsewhere", other, steps=(0, 2), method="pissa")
    options = Options(cache=at / "cache", deep="none", jobs=1)
    return {name: analyze(path, options) for name, path in paths.items()}


def test_methods_have_an_interval_over_seeds(analyses: dict[str, Analysis]) -> None:
    table = compare(analyses).methods.set_index(["method", "metric"])
    row = table.loc[("lora", "reward_end")]
    found = compare({name: analyses[name] for name in ("a", "b", "again", "c")}).runs.set_index("run")["reward_end"]
    # Two runs of seed 1 are one draw.
    means = [found["a"], (found["b"] + found["again"]) / 2, found["c"]]
    low, high = stats.t.interval(0.95, 2, sum(means) / 3, stats.sem(means))
    assert (row["runs"], row["note"]) == (4, "3 seeds")
    assert (row["mean"], row["lo"], row["hi"]) == pytest.approx((sum(means) / 3, low, high))
    assert ("lora", "relative_fro") in table.index


def test_runs_are_grouped_by_all_that_is_in_their_recipe_but_the_seed(
    analyses: dict[str, Analysis], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes = {
        name: {"name": name, "seed": seed, "algorithm": {"name": algorithm}}
        for name, seed, algorithm in (("a", 0, "grpo"), ("b", 1, "grpo"), ("again", 1, "dapo"), ("c", 2, "dapo"))
    }
    made = {f"{recipes[name]['algorithm']['name']}-{name}": analyses[name] for name in recipes}  # type: ignore[index]
    by_path = {analyses[name].run.path: recipe for name, recipe in recipes.items()}
    monkeypatch.setattr(RunDirectory, "recipe", lambda run: by_path[run.path])
    table = compare(made).methods
    table = table[table["metric"] == "reward_end"].set_index("name")
    assert dict(table["note"]) == {"grpo": "2 seeds", "dapo": "2 seeds"}
    assert table.loc["grpo", "mean"] == pytest.approx(0.25, abs=0.01)


def test_a_run_that_trains_vectors_alone_has_their_size(analyses: dict[str, Analysis]) -> None:
    whole = analyses["a"]
    modules = whole.tables.modules.assign(in_features=pd.array([pd.NA] * len(whole.tables.modules), dtype="Int64"))
    vectors = replace(whole, tables=replace(whole.tables, modules=modules, projection=empty("projection")))
    table = compare({"vectors": vectors, "b": analyses["b"]}).runs.set_index("run")
    last = modules[modules["step"] == 2]
    assert table.loc["vectors", "relative_fro"] == pytest.approx(last["relative_fro"].median())
    assert math.isnan(table.loc["vectors", "lift_left"])


def test_one_seed_has_no_interval_and_says_so(analyses: dict[str, Analysis]) -> None:
    done = compare({name: analyses[name] for name in ("b", "again", "dora")})
    table = done.methods
    assert done.notes == ("every recipe has one seed: there is no interval over seeds",)
    assert set(table["note"]) == {"one seed"}
    assert table["lo"].isna().all() and table["hi"].isna().all() and table["mean"].notna().all()


def test_updates_are_compared_on_the_same_base_only(analyses: dict[str, Analysis]) -> None:
    done = compare({name: analyses[name] for name in ("a", "dora", "elsewhere")})
    assert set(zip(done.pairs["run_a"], done.pairs["run_b"], strict=True)) == {("a", "dora")}
    assert done.notes == (
        "a and dora and elsewhere have different base models: their updates are not compared",
        "every recipe has one seed: there is no interval over seeds",
    )
    summary = done.pairs_summary.set_index("metric")
    assert summary.loc["cosine", "value"] == pytest.approx(1)
    assert summary.loc["cosine", "matrices"] == 6
    assert math.isnan(summary.loc["cosine", "lo"])  # two layers


def test_the_command_writes_every_table_and_shows_them(
    analyses: dict[str, Analysis], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_path = {analysis.run.path: analysis for analysis in analyses.values()}
    shown: dict[str, Any] = {}
    monkeypatch.setattr("spectra.commands.analyze.measure", lambda path, options: by_path[path])
    monkeypatch.setattr("spectra.commands.analyze.draw_analysis", lambda analysis, figures: None)
    monkeypatch.setattr(
        "spectra.figures.write_comparison_report", lambda *_, **keywords: shown.update(keywords) or [tmp_path / "page"]
    )
    paths = [analyses[name].run.path for name in ("a", "b", "elsewhere")]
    done = command(paths, out=tmp_path, options=Options(cache=tmp_path / "cache"))
    for name in ("pairs", "pairs_summary", "methods", "differences"):
        assert (tmp_path / "tables" / f"{name}.parquet").exists()
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "tables" / "pairs.parquet"), done.pairs)
    assert "have different base models" in shown["facts"]["not compared"]
    updates, methods = shown["further"].values()  # nothing was evaluated: no differences of accuracy
    assert set(updates["metric"]) >= {"cosine", "jaccard"}
    assert {"one seed", "2 seeds"} == set(methods["note"])
    # With one seed there is nothing to show over seeds, and the page says why.
    command(
        [analyses[name].run.path for name in ("a", "dora")], out=tmp_path, options=Options(cache=tmp_path / "cache")
    )
    assert [title.split(":")[0] for title in shown["further"]] == ["Updates against each other"]
    assert shown["facts"]["not compared"] == "every recipe has one seed: there is no interval over seeds"
