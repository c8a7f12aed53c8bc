"""A whole analysis: recognized, measured, stored, reused, judged; and what a kill or a fault leaves."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from spectra.analysis.analyze import Analysis, Options, analyze
from spectra.analysis.pipeline.tasks import ModuleResult, ModuleTask, TaskRunner
from spectra.errors import BaseModelError, MissingInitialError, RunExistsError, RunNotFoundError, UsageError
from spectra.runs.directory import open_run
from spectra.runs.layout import AnalysisLayout, RunLayout
from spectra.runs.lock import exclusive
from spectra.runs.tables import SCHEMAS, Tables
from tests import oracles
from tests.builders import (
    lora_config,
    own_run,
    randn,
    small_base,
    small_factors,
    trainer_run,
    write_adapter,
    write_model,
)
from tests.counted import count_reads


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def first(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    """Return one analysis of a run; a test that goes on from there takes a copy."""
    where = tmp_path_factory.mktemp("first")
    return run_analysis(own_run(where / "run", base), where)


@pytest.fixture
def analyzed(first: Analysis, tmp_path: Path) -> Path:
    """Copy the analyzed run, and its cache of bases, into the directory of a test."""
    shutil.copytree(first.run.path.parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / "run"


def run_analysis(path: Path, tmp_path: Path, **options: Any) -> Analysis:
    return analyze(path, Options(cache=tmp_path / "cache", **options))


def assert_same(one: Tables, two: Tables) -> None:
    for name in SCHEMAS:
        pd.testing.assert_frame_equal(one[name], two[name])


def test_own_run_against_the_oracle(first: Analysis, base: Path) -> None:
    done = first
    assert done.verdict["coverage"]["text"] == "6/6 matrices, 0 skipped"
    assert list(done.tables.modules["step"].unique()) == [0, 2, 4]
    weights = load_file(base / "model.safetensors")
    for step in (2, 4):
        for module, (b, a) in small_factors(scale=1e-3 * step).items():
            row = done.tables.modules.query("step == @step and module == @module").iloc[0]
            expected = oracles.modules_row(
                (2 * b.float().double() @ a.float().double()).numpy(), weights[f"{module}.weight"].double().numpy()
            )
            for column in ("delta_fro", "relative_fro", "effective_rank", "outside_left", "outside_right"):
                assert row[column] == pytest.approx(expected[column], rel=1e-9), column
    start = done.tables.modules.query("step == 0")
    assert (start["delta_fro"] == 0).all() and start["stable_rank"].isna().all()


@pytest.mark.parametrize("make_run", [own_run, trainer_run])
def test_each_tensor_file_is_opened_and_each_configuration_parsed_once(
    make_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", small_base(tmp_path / "base"), steps=(2, 10))
    snapshots = [snapshot.path.relative_to(tmp_path) for snapshot in open_run(run).snapshots]
    counts = count_reads(tmp_path, monkeypatch)
    run_analysis(run, tmp_path, jobs=1, deep="all")
    wanted = [f"{path}/{name}" for path in snapshots for name in ("adapter_config.json", "adapter_model.safetensors")]
    wanted += ["base/config.json", "base/model.safetensors"]
    found = {name: count for name, count in counts.items() if "config" in name or "safetensors" in name}
    assert found == dict.fromkeys(wanted, 1)


def test_the_second_call_reuses_everything(first: Analysis, analyzed: Path, tmp_path: Path) -> None:
    assert (first.rows_reused, first.rows_computed, first.bases_computed, first.changed) == (0, 18, 6, True)
    second = run_analysis(analyzed, tmp_path)
    assert (second.rows_reused, second.rows_computed, second.bases_computed, second.changed) == (18, 0, 0, False)
    assert "18 of 18 module snapshots reused, 0 computed" in second.reuse()
    assert_same(first.tables, second.tables)


def test_a_new_snapshot_computes_only_itself_and_reuses_bases(analyzed: Path, tmp_path: Path, base: Path) -> None:
    run = analyzed
    write_adapter(RunLayout(run).snapshot(6), lora_config(str(base)), small_factors(scale=6e-3))
    done = run_analysis(run, tmp_path)
    assert (done.rows_reused, done.rows_computed, done.bases_reused, done.bases_computed) == (18, 6, 6, 0)


def test_a_changed_snapshot_is_computed_again(first: Analysis, analyzed: Path, tmp_path: Path, base: Path) -> None:
    before, run = first, analyzed
    write_adapter(RunLayout(run).snapshot(4), lora_config(str(base)), small_factors(scale=9e-3))
    after = run_analysis(run, tmp_path)
    assert (after.rows_reused, after.rows_computed) == (12, 6)
    old, new = (done.tables.modules.query("step == 4")["delta_fro"].to_numpy() for done in (before, after))
    np.testing.assert_allclose(new, old * 9 / 4, rtol=1e-6)


def test_a_removed_snapshot_leaves_the_tables(analyzed: Path, tmp_path: Path) -> None:
    shutil.rmtree(RunLayout(analyzed).snapshot(4))
    done = run_analysis(analyzed, tmp_path)
    assert set(done.tables.modules["step"]) == {0, 2}
    assert "6 of snapshots that changed or are gone dropped" in done.reuse()


def test_a_killed_analysis_keeps_what_was_finished(
    first: Analysis, tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = own_run(tmp_path / "run", base)
    real, calls = TaskRunner.run, []

    def dies(runner: TaskRunner, task: ModuleTask) -> ModuleResult:
        if len(calls) == 4:
            raise KeyboardInterrupt
        calls.append(task)
        return real(runner, task)

    monkeypatch.setattr(TaskRunner, "run", dies)
    with pytest.raises(KeyboardInterrupt):
        run_analysis(run, tmp_path)
    assert not (run / "spectra" / "tables").exists()
    monkeypatch.setattr(TaskRunner, "run", real)
    done = run_analysis(run, tmp_path)
    assert (done.rows_reused, done.rows_computed) == (12, 6)
    assert not AnalysisLayout(run / "spectra").parts.exists()
    assert_same(done.tables, first.tables)


def test_a_report_of_other_numbers_does_not_outlive_them(analyzed: Path, tmp_path: Path, base: Path) -> None:
    run, where = analyzed, run_analysis(analyzed, tmp_path).where
    where.report_html.write_text("the page")
    run_analysis(run, tmp_path)
    assert where.report_html.exists()
    write_adapter(RunLayout(run).snapshot(6), lora_config(str(base)), small_factors(scale=6e-3))
    run_analysis(run, tmp_path)  # a kill before the page is drawn leaves none, so that the next call draws it
    assert not where.report_html.exists()


def test_two_analyses_of_one_directory_exclude_each_other(tmp_path: Path, base: Path) -> None:
    run = own_run(tmp_path / "run", base)
    with exclusive(RunLayout(run).analysis.lock, "analyzing"), pytest.raises(RunExistsError, match="another process"):
        run_analysis(run, tmp_path)


def test_bases_whose_numbers_are_not_weights_are_refused(tmp_path: Path, base: Path) -> None:
    tensors = load_file(base / "model.safetensors")
    run = write_adapter(tmp_path / "run", lora_config("b"), small_factors())
    fp8 = write_model(tmp_path / "fp8", {name: tensor.to(torch.float8_e4m3fn) for name, tensor in tensors.items()})
    with pytest.raises(BaseModelError, match="float8_e4m3fn, which is quantized or scaled; pass the full-precision"):
        run_analysis(run, tmp_path, base=str(fp8))
    tensors["model.layers.0.self_attn.q_proj.weight"][0, 0] = torch.nan
    broken = write_model(tmp_path / "broken", tensors)
    with pytest.raises(BaseModelError, match=r"layers\.0\.self_attn\.q_proj\.weight contains NaN"):
        run_analysis(run, tmp_path, base=str(broken))


def test_a_relative_base_is_found_beside_the_run(tmp_path: Path) -> None:
    small_base(tmp_path / "models" / "base")
    run = write_adapter(tmp_path / "run", lora_config("models/base"), small_factors())
    assert run_analysis(run, tmp_path).verdict["coverage"]["analysed"] == 6


def test_processes_give_the_same_tables(first: Analysis, analyzed: Path, tmp_path: Path) -> None:
    two = run_analysis(analyzed, tmp_path, out=tmp_path / "two", jobs=2)
    assert (two.rows_computed, two.bases_computed) == (18, 0)
    assert_same(first.tables, two.tables)


def test_an_error_in_a_process_arrives_whole(tmp_path: Path, base: Path) -> None:
    run = own_run(tmp_path / "run", base)
    other = small_base(tmp_path / "other", seed=5)
    with pytest.raises(
        BaseModelError, match=r"is not the tensor that this run was trained on .*the base model of this run"
    ):
        run_analysis(run, tmp_path, base=str(other), jobs=2)
    with pytest.raises(UsageError, match="--jobs must be at least 1, got 0"):
        run_analysis(run, tmp_path, jobs=0)


def test_trainer_runs_and_full_checkpoints(tmp_path: Path, base: Path) -> None:
    done = run_analysis(trainer_run(tmp_path / "trl", base), tmp_path)
    assert set(done.tables.modules["step"]) == {2, 10}
    assert done.tables.series["zero_advantage_share"].tolist() == [0.5] * 10
    old = load_file(base / "model.safetensors")
    new = write_model(tmp_path / "full", {k: v + 1e-3 * randn(*v.shape).float() for k, v in old.items()})
    with pytest.raises(BaseModelError, match="does not name the base model"):
        run_analysis(new, tmp_path)
    full = run_analysis(new, tmp_path, base=str(base), deep="none")
    assert full.verdict["coverage"]["text"] == "6/6 matrices, 0 skipped, and 2 vectors"
    vectors = full.tables.modules[full.tables.modules["in_features"].isna()]
    assert vectors["kind"].tolist() == ["input_layernorm"] * 2
    assert vectors["effective_rank"].isna().all() and (vectors["delta_fro"] > 0).all()


def test_skips_are_counted_with_their_reason(tmp_path: Path, base: Path) -> None:
    run = write_adapter(tmp_path / "run", lora_config(str(base)), small_factors(layers=3))
    found = run_analysis(run, tmp_path).verdict["coverage"]
    assert found["text"] == "6/9 matrices, 3 skipped"
    assert {skip["reason"] for skip in found["skipped"]} == {"the base has no such parameter"}


def test_a_fault_leaves_no_report_and_no_tables(tmp_path: Path, base: Path) -> None:
    run = write_adapter(tmp_path / "run", lora_config(str(base), init_lora_weights="pissa_niter_4"), small_factors())
    with pytest.raises(MissingInitialError):
        run_analysis(run, tmp_path)
    assert not (run / "spectra" / "tables").exists()
    with pytest.raises(RunNotFoundError):
        run_analysis(tmp_path / "absent", tmp_path)


def test_a_gaussian_update_is_neither_principal_nor_off_principal(tmp_path: Path, base: Path) -> None:
    old = load_file(base / "model.safetensors")
    new = write_model(
        tmp_path / "noise", {k: v.double() + 1e-6 * randn(*v.shape, seed=i) for i, (k, v) in enumerate(old.items())}
    )
    done = run_analysis(new, tmp_path, base=str(base))
    z = done.tables.projection["z"].dropna()
    assert len(z) > 100
    # Shares of one matrix are dependent; the largest of 6 matrices' z stays within what chance allows.
    assert z.abs().max() < 5
    assert z.abs().median() < 1
    places = [e for e in done.verdict["evidence"] if e["metric"].endswith("_lift")]
    assert len(places) == 4
    assert all("indistinguishable from a random direction" in e["says"] for e in places)


def test_nan_updates_are_diverging_not_a_crash(tmp_path: Path, base: Path) -> None:
    run = own_run(tmp_path / "run", base)
    weights = RunLayout(run).snapshot(4) / "adapter_model.safetensors"
    tensors = load_file(weights)
    key = next(key for key in sorted(tensors) if "lora_A" in key)
    tensors[key][0, 0] = torch.nan
    save_file(tensors, weights)
    verdict = run_analysis(run, tmp_path).verdict
    assert verdict["verdict"] == "diverging"
    assert verdict["evidence"][0]["first_step"] == 4
    assert json.loads((run / "spectra" / "verdict.json").read_text()) == verdict
    assert [m for m, v in verdict["modules"].items() if v["verdict"] == "diverging"] == [
        key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
    ]


def test_a_broken_basis_in_the_cache_is_made_again(first: Analysis, analyzed: Path, tmp_path: Path) -> None:
    for file in (tmp_path / "cache" / "bases").rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:50])
    second = run_analysis(analyzed, tmp_path, out=tmp_path / "two")
    assert (second.bases_reused, second.bases_computed) == (0, 6)
    assert_same(first.tables, second.tables)


def test_a_newest_checkpoint_that_is_half_written_is_left_out_with_the_reason(tmp_path: Path, base: Path) -> None:
    run = trainer_run(tmp_path / "trl", base, steps=(2, 4, 6))
    for name in ("adapter_model.safetensors", "trainer_state.json"):
        file = run / "checkpoint-6" / name
        file.write_bytes(file.read_bytes()[:30])
    done = run_analysis(run, tmp_path)
    assert set(done.tables.modules["step"]) == {2, 4}
    assert done.tables.series["step"].max() == 4
    ignored = done.verdict["coverage"]["ignored"]
    assert [item["snapshot"] for item in ignored] == ["checkpoint-6"]
    assert "still being written?" in ignored[0]["reason"]


def test_another_tools_manifest_does_not_make_a_run_ours(tmp_path: Path, base: Path) -> None:
    run = trainer_run(tmp_path / "trl", base)
    (run / "manifest.json").write_text('{"tool": "another"}')
    assert run_analysis(run, tmp_path).run.layout == "trainer"


def test_a_corda_run_without_its_start_is_read_from_what_the_user_gives(tmp_path: Path, base: Path) -> None:
    config = lora_config(str(base), init_lora_weights="corda")
    began, ended = small_factors(scale=1.0), small_factors(scale=1.01)
    run = write_adapter(tmp_path / "run" / "checkpoint-5", config, ended).parent
    with pytest.raises(MissingInitialError, match=r"cannot be recomputed: it comes from data .*--initial DIR"):
        run_analysis(run, tmp_path)
    start = write_adapter(tmp_path / "elsewhere", config, began)
    done = run_analysis(run, tmp_path, initial=start)
    assert done.facts["initialization"] == "given by --initial"
    row = done.tables.modules.query("module == 'model.layers.0.mlp.up_proj'").iloc[0]
    (b, a), (b0, a0) = (factors["model.layers.0.mlp.up_proj"] for factors in (ended, began))
    exact = 2 * (b.float().double() @ a.float().double() - b0.float().double() @ a0.float().double())
    assert row["delta_fro"] == pytest.approx(float(torch.linalg.matrix_norm(exact)), rel=1e-9)
