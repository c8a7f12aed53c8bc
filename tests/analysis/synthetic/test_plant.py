"""Synthetic runs have the fault they claim, and the verdict finds it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from spectra.analysis.analyze import Options, analyze
from spectra.analysis.synthetic import EXPECTED, TRUTHS, PlantedRun, Truth, plant
from spectra.runs.directory import open_run


def updates(run: PlantedRun, which: int = -1) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return (W, ΔW) of every matrix at one snapshot, read from the files without spectra."""
    base = {k.removesuffix(".weight"): v.double() for k, v in load_file(run.base / "model.safetensors").items()}
    snapshot = open_run(run.path).snapshots[which].path
    if (snapshot / "adapter_config.json").exists():
        found = load_file(snapshot / "adapter_model.safetensors")
        names = {k.split(".lora_")[0].removeprefix("base_model.model.") for k in found}
        factor = "base_model.model.{}.lora_{}.weight"
        return {
            n: (base[n], found[factor.format(n, "B")].double() @ found[factor.format(n, "A")].double()) for n in names
        }
    after = {k.removesuffix(".weight"): v.double() for k, v in load_file(snapshot / "model.safetensors").items()}
    return {n: (w, after[n] - w) for n, w in base.items() if w.ndim == 2}


def joint_share(weight: torch.Tensor, update: torch.Tensor, chosen: slice) -> float:
    left, _, right = np.linalg.svd(weight.numpy(), full_matrices=False)
    inside = left[:, chosen].T @ update.numpy() @ right[chosen].T
    return float((inside**2).sum() / (update.numpy() ** 2).sum())


@pytest.mark.parametrize(("truth", "end"), [("principal", "first"), ("principal_locked", "first"), ("minor", "last")])
def test_the_energy_lies_where_it_is_planted(tmp_path: Path, truth: Truth, end: str) -> None:
    for weight, update in updates(plant(tmp_path, truth, seed=3)).values():
        block = max(1, round(0.1 * min(weight.shape)))
        chosen = slice(0, block) if end == "first" else slice(min(weight.shape) - block, None)
        assert joint_share(weight, update, chosen) > 0.55


def test_the_rank_is_lost_after_the_onset(tmp_path: Path) -> None:
    run = plant(tmp_path, "rank_collapsing", seed=3)
    for which, low, high in ((0, 0.1, 0.5), (-1, 0.9, 1.0)):
        for _, update in updates(run, which).values() if which else updates(run, 1).values():
            energies = np.linalg.svd(update.numpy(), compute_uv=False) ** 2
            assert low < energies[0] / energies.sum() < high
    assert run.onset is not None and 0 < run.onset < run.setting.steps


def test_an_update_diverges_past_the_base(tmp_path: Path) -> None:
    for weight, update in updates(plant(tmp_path, "diverging", seed=3)).values():
        assert np.linalg.norm(update.numpy(), 2) > 1.4 * np.linalg.norm(weight.numpy(), 2)


def test_an_intruder_is_far_from_every_direction_of_the_base(tmp_path: Path) -> None:
    for weight, update in updates(plant(tmp_path, "intruder", seed=3)).values():
        base, tuned = (np.linalg.svd(matrix.numpy())[0] for matrix in (weight, update))
        assert np.abs(base[:, : min(weight.shape)].T @ tuned[:, 0]).max() < 0.5


def test_an_offset_is_there_at_once_and_stays(tmp_path: Path) -> None:
    run = plant(tmp_path, "wrong_base", seed=3)
    first, last = updates(run, 0), updates(run)
    for name, (weight, update) in first.items():
        late = last[name][1]
        assert float(update.norm() / weight.norm()) > 0.01
        assert float((update * late).sum() / (update.norm() * late.norm())) > 0.9


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_a_seed_decides_everything(tmp_path: Path, seed: int) -> None:
    first, second = (plant(tmp_path / name, "healthy", seed) for name in ("a", "b"))
    assert first.setting == second.setting
    for name, (_, update) in updates(first).items():
        assert torch.equal(update, updates(second)[name][1])
    assert open_run(first.path).series().equals(open_run(second.path).series())


def test_settings_differ_and_are_read_as_they_are(tmp_path: Path) -> None:
    runs = [plant(tmp_path / str(seed), "isotropic", seed) for seed in range(12)]
    assert {run.setting.stored for run in runs} == {"adapter", "full"}
    assert {run.setting.dtype for run in runs} == {"float32", "bfloat16"}
    assert {open_run(run.path).layout for run in runs} == {"spectra", "trainer"}
    for run in runs:
        found = open_run(run.path)
        assert tuple(s.step for s in found.snapshots if s.step) == run.setting.snapshots
        assert found.series()["step"].tolist() == run.setting.logged.tolist()


def test_a_trainer_log_has_the_names_of_trl(tmp_path: Path) -> None:
    seed = next(s for s in range(20) if plant(tmp_path / str(s), "healthy", s).setting.style == "trainer")
    state = next((tmp_path / str(seed) / "run").glob("checkpoint-*/trainer_state.json"))
    names = {name for record in json.loads(state.read_text())["log_history"] for name in record}
    assert "reward" in names and not names & {"zero_advantage_share", "completion_length"}


@pytest.mark.slow
@pytest.mark.parametrize("truth", TRUTHS)
def test_the_verdict_is_the_truth(tmp_path: Path, truth: Truth) -> None:
    run = plant(tmp_path, truth, seed=11)
    assert run.expected == EXPECTED[truth]
    options = Options(base=str(run.base), cache=tmp_path / "cache", deep="none", jobs=1)
    found = analyze(run.path, options).verdict
    assert found["verdict"] == run.expected, found["summary"]
    if run.onset is not None and run.resolution is not None:
        assert abs(found["onset_step"] - run.onset) <= max(1.5 * run.resolution, 0.15 * run.setting.steps)


def test_few_lines_are_six_to_fifteen(tmp_path: Path) -> None:
    for seed in range(4):
        run = plant(tmp_path / str(seed), "few_lines", seed)
        assert 6 <= len(open_run(run.path).series()) <= 15
        assert run.setting.steps >= 5 * len(run.setting.logged)
