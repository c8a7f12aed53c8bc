"""One run from start to end, and what happens where something is already there."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from spectra.config import dump, load
from spectra.errors import BaseModelError, MissingDependencyError, RunExistsError, SpectraError
from spectra.runs.layout import ADAPTER_WEIGHTS, MODEL_UPDATE, MODEL_WEIGHTS, RunLayout
from spectra.runs.manifest import Manifest
from spectra.runs.series import read_metrics
from spectra.training.loop.run import RunAction, clear, decide, train
from spectra.training.recipe.recipe import Recipe
from spectra.weights.storage.bit_differences import DifferenceStore
from spectra.weights.storage.tensors import TensorStore

Maker = Callable[..., Recipe]


def tensors(layout: RunLayout, step: int) -> dict[str, torch.Tensor]:
    file = layout.snapshot(step) / ADAPTER_WEIGHTS
    if file.exists():
        return load_file(file)
    base = TensorStore.open_model(Path(Manifest.read(layout.manifest).base.name))
    return dict(DifferenceStore(file.with_name(MODEL_UPDATE), base))


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("method", ["lora", "dora", "pissa", "full"])
@pytest.mark.usefixtures("easy_reward")
def test_two_steps(method: str, recipe_for: Maker, tmp_path: Path) -> None:
    out = tmp_path / "run"
    recipe = recipe_for(method={"name": method}, optimizer={"learning_rate": 1e-2})
    assert train(recipe, out, quiet=True) == out
    layout = RunLayout(out)
    assert load(Recipe, layout.recipe) == recipe
    assert sorted(path.name for path in layout.snapshots.iterdir()) == ["step_000000", "step_000001", "step_000002"]
    before, after = tensors(layout, 0), tensors(layout, 2)
    assert before.keys() == after.keys()
    assert all(tensor.dtype == torch.float32 and bool(tensor.isfinite().all()) for tensor in after.values())
    assert any(not torch.equal(before[name], after[name]) for name in before)
    manifest = Manifest.read(layout.manifest)
    assert (manifest.method, manifest.algorithm, manifest.seed) == (method, "dapo", 0)
    assert manifest.base.name == recipe.model.base


@pytest.mark.parametrize("algorithm", [{"name": "grpo"}, {"name": "dapo", "beta": 0.05}])
@pytest.mark.usefixtures("easy_reward")
def test_both_objectives(algorithm: dict[str, Any], recipe_for: Maker, tmp_path: Path) -> None:
    sizes = {"generations": 4, "max_completion_length": 4}
    recipe = recipe_for(algorithm={**sizes, **algorithm}, optimizer={"learning_rate": 1e-1})
    metrics = read_metrics(RunLayout(train(recipe, tmp_path / "run", quiet=True)).metrics)
    kl = metrics["kl"].dropna().tolist() if "kl" in metrics else []
    assert len(kl) == (2 if "beta" in algorithm else 0)
    if kl:  # the reference is the base: no divergence before the first step, some after it
        assert kl[0] == pytest.approx(0, abs=1e-6)
        assert kl[1] > 1e-4


@pytest.mark.usefixtures("easy_reward")
def test_metrics_are_floats_under_canonical_names(recipe_for: Maker, tmp_path: Path) -> None:
    layout = RunLayout(train(recipe_for(), tmp_path / "run", quiet=True))
    rows = [json.loads(line) for line in layout.metrics.read_text().splitlines()]
    assert [row.pop("step") for row in rows] == [0, 1, 2]
    assert rows[0].keys() == {"eval_accuracy"}
    names = {"reward", "reward_std", "zero_advantage_share", "entropy", "loss", "grad_norm", "learning_rate"}
    names |= {"completion_length", "clipped_completions", "clip_low", "clip_high", "step_time", "eval_accuracy"}
    for row in rows[1:]:
        assert names <= row.keys()
        assert all(isinstance(value, float) for value in row.values())
        assert row["learning_rate"] == 1e-3


def test_evaluations_are_one_object_a_generation(recipe_for: Maker, tmp_path: Path) -> None:
    layout = RunLayout(train(recipe_for(), tmp_path / "run", quiet=True))
    for step in (0, 1, 2):
        rows = [json.loads(line) for line in layout.evaluation("carry_addition", step).read_text().splitlines()]
        assert [row["sample"] for row in rows] == [0, 1] * 4
        assert {"problem", "completion", "correct"} <= rows[0].keys()


@pytest.mark.usefixtures("easy_reward")
def test_evaluation_does_not_change_training(recipe_for: Maker, tmp_path: Path) -> None:
    with_evaluation, without = recipe_for(), recipe_for(evaluation={"every": None})
    for name, recipe in (("a", with_evaluation), ("b", without)):
        train(recipe, tmp_path / name, quiet=True)
    ours, theirs = tensors(RunLayout(tmp_path / "a"), 2), tensors(RunLayout(tmp_path / "b"), 2)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.usefixtures("easy_reward")
def test_smaller_micro_batches_take_the_same_step(recipe_for: Maker, tmp_path: Path) -> None:
    sizes = {"steps": 1, "method": {"name": "full"}, "optimizer": {"learning_rate": 1e-2, "epsilon": 1.0}}
    for name, micro in (("whole", None), ("parts", 4)):
        train(recipe_for(micro_batch=micro, **sizes), tmp_path / name, quiet=True)
    whole, parts = tensors(RunLayout(tmp_path / "whole"), 1), tensors(RunLayout(tmp_path / "parts"), 1)
    start = tensors(RunLayout(tmp_path / "whole"), 0)
    assert max((whole[name] - start[name]).abs().max() for name in whole) > 1e-4
    for name in whole:
        torch.testing.assert_close(whole[name], parts[name], atol=1e-6, rtol=0)


@pytest.mark.usefixtures("easy_reward")
def test_the_same_words_again_leave_a_finished_run_alone(
    recipe_for: Maker, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_for()
    train(recipe, tmp_path / "run", quiet=True)
    before = contents(tmp_path / "run")
    capfd.readouterr()
    train(recipe, tmp_path / "run")
    assert contents(tmp_path / "run") == before
    captured = capfd.readouterr()
    assert "already finished" in captured.err
    assert captured.out == ""


@pytest.mark.usefixtures("easy_reward")
def test_quiet_says_nothing_and_otherwise_lines_go_to_standard_error(
    recipe_for: Maker, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(recipe_for(), tmp_path / "quiet", quiet=True)
    assert capfd.readouterr() == ("", "")
    train(recipe_for(), tmp_path / "loud")
    out, err = capfd.readouterr()
    assert out == ""
    assert "trainable weights (35.86 % of the base model)" in err.splitlines()[0]
    assert [line.split(" reward")[0] for line in err.splitlines()[1:]] == ["step 1/2", "step 2/2"]


def test_another_recipe_is_refused_with_the_first_differing_key(recipe_for: Maker, tmp_path: Path) -> None:
    train(recipe_for(), tmp_path / "run", quiet=True)
    with pytest.raises(RunExistsError, match=r"holds a run with method\.r = 8, but the recipe has 4; .*--overwrite"):
        train(recipe_for(method={"r": 4}), tmp_path / "run", quiet=True)


@pytest.mark.usefixtures("easy_reward")
def test_overwriting_starts_again_and_leaves_what_is_not_the_runs(recipe_for: Maker, tmp_path: Path) -> None:
    train(recipe_for(), tmp_path / "run", quiet=True)
    (tmp_path / "run" / "notes.md").write_text("mine")
    train(recipe_for(method={"r": 4}, steps=1), tmp_path / "run", overwrite=True, quiet=True)
    layout = RunLayout(tmp_path / "run")
    assert (tmp_path / "run" / "notes.md").read_text() == "mine"
    assert load(Recipe, layout.recipe).method.r == 4
    assert sorted(path.name for path in layout.snapshots.iterdir()) == ["step_000000", "step_000001"]
    assert read_metrics(layout.metrics)["step"].tolist() == [0, 1]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_directory_that_is_no_run_is_never_touched(overwrite: bool, recipe_for: Maker, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunExistsError, match=r"holds 'thesis\.tex', but no spectra run"):
        train(recipe_for(), tmp_path, overwrite=overwrite, quiet=True)
    assert contents(tmp_path) == {"thesis.tex": b"years of work"}


def test_every_plan(recipe_for: Maker, tmp_path: Path) -> None:
    recipe, layout = recipe_for(), RunLayout(tmp_path / "run")
    assert decide(recipe, layout) is RunAction.START
    layout.root.mkdir()
    (layout.root / "train.log").write_text("a study began")
    layout.manifest.write_text("{}")
    assert decide(recipe, layout) is RunAction.START  # killed before the recipe was there: nothing was trained
    layout.recipe.write_text(dump(recipe))
    assert decide(recipe, layout) is RunAction.RESUME
    layout.snapshot(1).mkdir(parents=True)
    assert decide(recipe, layout) is RunAction.RESUME
    layout.snapshot(2).mkdir()
    assert decide(recipe, layout) is RunAction.SKIP
    assert decide(recipe, layout, overwrite=True) is RunAction.START
    clear(layout)
    assert decide(recipe, layout) is RunAction.START


def own_data(tmp_path: Path, **task: Any) -> dict[str, Any]:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"q": f"{a}+1=", "a": str(a + 1)}) + "\n" for a in range(4)))
    return {"name": "mine", "data": str(file), "heldout": str(file), "prompt": "q", "answer": "a", **task}


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "column": ({"task": {"prompt": "nope"}}, "row 1 has no 'nope'"),
    "fewer held-out problems": ({"evaluation": {"problems": 9}}, "must be at most 4, the held-out problems of"),
    "length": ({"algorithm": {"generations": 4, "max_completion_length": 99}}, "exceeds the model's positions, 64"),
    "no such base": (
        {"model": {"base": "/nonexist"}},
        "no such base model directory; pass a directory or a hub id to model.base",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_recipe_writes_nothing_and_removes_nothing(fault: str, recipe_for: Maker, tmp_path: Path) -> None:
    sections, says = FAULTS[fault]
    sections = {**sections, "task": own_data(tmp_path, **sections.get("task", {}))}
    layout = RunLayout(tmp_path / "run")
    with pytest.raises(SpectraError) as caught:
        train(recipe_for(**sections), layout.root, quiet=True)
    assert says in str(caught.value) and "--base" not in str(caught.value)
    assert [path.name for path in layout.root.glob("[!.]*")] == []
    layout.snapshot(1).mkdir(parents=True)
    layout.recipe.write_text(dump(recipe_for(seed=9)))
    before = contents(layout.root)
    with pytest.raises(SpectraError):
        train(recipe_for(**sections), layout.root, overwrite=True, quiet=True)
    assert {name: data for name, data in contents(layout.root).items() if name != ".lock"} == {
        name: data for name, data in before.items() if name != ".lock"
    }


def test_vllm_that_is_not_installed_is_missed_before_anything_is_written(
    recipe_for: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spectra.training.sampling.rollout.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"rollout\.engine vllm needs vLLM"):
        train(recipe_for(rollout={"engine": "vllm"}), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_run_has_one_trainer_at_a_time(recipe_for: Maker, tmp_path: Path) -> None:
    import fcntl

    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunExistsError, match="another process is training this run"):
            train(recipe_for(), tmp_path, quiet=True)


@pytest.mark.usefixtures("easy_reward")
def test_another_number_of_processes_is_noticed_on_resume(recipe_for: Maker, tmp_path: Path) -> None:
    recipe = recipe_for(steps=1)
    layout = RunLayout(train(recipe, tmp_path / "run", quiet=True))
    layout.snapshot(1).rename(layout.snapshots / ".step_000001.0a1b2c3d.tmp")  # as a crash leaves it
    manifest = Manifest.read(layout.manifest)
    assert manifest.hardware["processes"] == 1
    replace(manifest, hardware={**manifest.hardware, "processes": 4}).write(layout.manifest)
    with pytest.raises(
        RunExistsError, match="started with 4 processes, and cannot resume with 1; .* --num_processes 4"
    ):
        train(recipe, layout.root, quiet=True)
    # A run of an earlier release does not say: it was one.
    replace(manifest, hardware={}).write(layout.manifest)
    train(recipe, layout.root, quiet=True)
    assert sorted(path.name for path in layout.snapshots.iterdir()) == ["step_000000", "step_000001"]


@pytest.mark.usefixtures("easy_reward")
def test_a_changed_base_is_noticed_on_resume(recipe_for: Maker, tmp_path: Path, tiny_base: Path) -> None:
    from safetensors.torch import save_file

    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    recipe = recipe_for(model={"base": str(base)})
    layout = RunLayout(train(recipe, tmp_path / "run", quiet=True))
    shutil.rmtree(layout.snapshot(2))
    weights = load_file(base / MODEL_WEIGHTS)
    weights["lm_head.weight"] += 1e-3
    save_file(weights, base / MODEL_WEIGHTS, {"format": "pt"})
    with pytest.raises(BaseModelError, match=r"the base model changed since the run started \(lm_head\.weight\)"):
        train(recipe, layout.root, quiet=True)
