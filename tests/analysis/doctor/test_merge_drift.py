"""Frozen weights that moved: measured, or predicted from the run's files."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from spectra.analysis.doctor.case import open_case
from spectra.analysis.doctor.merge_drift import Growth, predict
from spectra.linalg.measures.merge_drift import drift, simulate
from spectra.runs.series import append_metrics
from tests.analysis.doctor.faulty_runs import (
    base_tensors,
    base_with_config,
    edit_config,
    edit_tensors,
    moved_factors,
    only,
)
from tests.builders import lora_config, own_run, small_base, small_factors, trainer_run, write_adapter, write_model


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return own_run(tmp_path / "run", small_base(tmp_path / "base"), steps=(0, 100, 200))


def log(run: Path, *values: float) -> None:
    for number, value in enumerate(values, start=1):
        append_metrics(run / "metrics.jsonl", {"step": 100 * number, "frozen_drift": value})


def test_weights_that_stayed(run: Path) -> None:
    log(run, 0.0, 0.0)
    check = only(run, "merge_drift")
    assert (check.status, check.evidence.value) == ("ok", 0.0)


def test_weights_that_moved_more_than_the_update_allows(run: Path) -> None:
    log(run, 0.0, 50.0)
    check = only(run, "merge_drift")
    assert (check.status, check.verdict, check.evidence.first_step) == ("fault", "merge_drift", 200)
    assert check.evidence.threshold is not None
    assert 0 < check.evidence.threshold < 50


def test_weights_that_moved_a_little(run: Path) -> None:
    log(run, 1e-7, 1e-6)
    check = only(run, "merge_drift")
    assert (check.status, check.evidence.first_step) == ("note", 100)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_prediction_follows_the_dtype_of_the_recipe(dtype: str, run: Path) -> None:
    (run / "recipe.yaml").write_text(f"model: {{dtype: {dtype}}}\nmethod: {{name: lora, r: 4, alpha: 8}}\n")
    check = only(run, "merge_drift")
    assert ("float32" in check.evidence.says) == (dtype == "float32")
    assert check.status == ("ok" if dtype == "float32" or check.evidence.value <= 0.1 else "note")  # type: ignore[operator]


def test_the_dtype_of_a_foreign_run_is_that_of_its_base(tmp_path: Path) -> None:
    base = base_with_config(tmp_path / "base", dtype="bfloat16")
    run = trainer_run(tmp_path / "run", base, steps=(300, 600))
    factors = small_factors(scale=1e-4)
    for step in (300, 600):
        grown = {m: (b * step / 600, a) for m, (b, a) in factors.items()}
        write_adapter(run / f"checkpoint-{step}", lora_config(str(base)), grown)
    check = only(run, "merge_drift")
    assert check.status == "note"
    assert "600 merges and unmerges in bfloat16 (as the base is stored)" in check.evidence.says
    assert "whether this trainer merges is unknown" in check.evidence.says


def test_a_sampler_that_gets_merged_weights_makes_it_a_fault(tmp_path: Path) -> None:
    base = small_base(tmp_path / "base")
    run = trainer_run(tmp_path / "run", base, steps=(300, 600))
    (run / "recipe.yaml").write_text("model: {dtype: bfloat16}\n")
    factors = small_factors(scale=1e-4)
    for step in (300, 600):
        grown = {m: (b * step / 600, a) for m, (b, a) in factors.items()}
        write_adapter(run / f"checkpoint-{step}", lora_config(str(base)), grown)
        history = [{"step": step, "sampling/sampling_logp_difference/mean": 0.01}]
        state = {"global_step": step, "log_history": history}
        (run / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps(state))
    check = only(run, "merge_drift")
    assert (check.status, check.verdict) == ("fault", "merge_drift")


def test_the_prediction_is_the_simulation_of_the_whole_matrix(run: Path) -> None:
    case = open_case(run)
    module = "model.layers.0.mlp.up_proj"
    weight = base_tensors(run.parent / "base")[f"{module}.weight"].double()
    deltas = {
        step: 2 * (f := small_factors(scale=1e-3 * step)[module])[0].float() @ f[1].float() for step in (100, 200)
    }
    whole = {0: torch.zeros_like(deltas[100]), **deltas}

    def growing(cycle: int) -> torch.Tensor:
        low = 0 if cycle <= 100 else 100
        return torch.lerp(whole[low], whole[low + 100], (cycle - low) / 100)

    stored = weight.to(torch.bfloat16)
    norm = drift(stored, simulate(stored, growing, torch.bfloat16, [200])[200]).norm
    found = predict(case, module, torch.bfloat16, 200)
    assert found is not None
    ratio, relative = found
    assert ratio == pytest.approx(norm / float(deltas[200].double().norm()), rel=1e-2)
    assert relative == pytest.approx(norm / float(weight.norm()), rel=1e-2)


def test_growth_is_a_straight_line_between_snapshots() -> None:
    growth = Growth((0, 10, 30), (torch.zeros(2), torch.ones(2), torch.full((2,), 5.0)))
    assert [float(growth.at(step)[0]) for step in (0, 5, 10, 20, 30, 99)] == [0, 0.5, 1, 3, 5, 5]


def test_dora_is_not_predicted(tmp_path: Path) -> None:
    run = own_run(tmp_path / "run", small_base(tmp_path / "base"))
    for step in (0, 2, 4):
        edit_config(run / "snapshots" / f"step_{step:06d}", use_dora=True)
    from tests.analysis.doctor.test_labels import with_magnitudes

    for step in (0, 2, 4):
        edit_tensors(run / "snapshots" / f"step_{step:06d}", with_magnitudes)
    assert only(run, "merge_drift").status == "skipped"


def pinned(run: Path, pattern: str) -> None:
    """Set the update of some modules of every checkpoint to zero."""
    for checkpoint in run.glob("checkpoint-*"):
        edit_tensors(checkpoint, lambda t: {n: x * 0 if f"{pattern}.lora_B" in n else x for n, x in t.items()})


def test_modules_that_did_not_train_are_left_out_of_a_prediction(tmp_path: Path) -> None:
    base = small_base(tmp_path / "base", dtype=torch.bfloat16)
    run = trainer_run(tmp_path / "run", base)
    pinned(run, "layers.0.self_attn.q_proj")
    assert "times the update (predicted)" in only(run, "merge_drift").evidence.says
    pinned(run, "")
    check = only(run, "merge_drift")
    assert (check.status, "ΔW is zero" in check.evidence.says) == ("skipped", True)


def test_a_base_matrix_of_zeros_is_left_out_of_a_prediction(tmp_path: Path) -> None:
    base = small_base(tmp_path / "base", dtype=torch.bfloat16)
    tensors = base_tensors(base)
    tensors["model.layers.0.self_attn.q_proj.weight"].zero_()
    write_model(base, tensors)
    case = open_case(trainer_run(tmp_path / "run", base))
    assert predict(case, "model.layers.0.self_attn.q_proj", torch.bfloat16, 10) is None
    assert predict(case, "model.layers.1.self_attn.q_proj", torch.bfloat16, 10) is not None


def test_measured_drift_is_held_against_the_pooled_update(run: Path) -> None:
    factors = small_factors(scale=4e-3)
    uneven = {m: (b * 0.05 if "layers.0" in m or "q_proj" in m else b, a) for m, (b, a) in factors.items()}
    write_adapter(run / "snapshots" / "step_000200", lora_config(str(run.parent / "base")), uneven)
    log(run, 0.0, 0.003)
    weights = base_tensors(run.parent / "base")
    updates = sum(float((2 * b.float() @ a.float()).double().norm()) ** 2 for b, a in uneven.values())
    sizes = sum(float(weights[f"{module}.weight"].double().norm()) ** 2 for module in uneven)
    check = only(run, "merge_drift")
    assert check.evidence.threshold == pytest.approx(0.1 * (updates / sizes) ** 0.5, rel=1e-5)


# Names under which GPT-2 stores matrices I × O.
CONV1D = {"self_attn.q_proj": "attn.c_proj", "mlp.up_proj": "mlp.c_fc", "mlp.down_proj": "mlp.c_proj"}


def as_conv1d(name: str) -> str:
    for old, new in CONV1D.items():
        name = name.replace(old, new)
    return name


def pissa_run(directory: Path, base: Path, factors: dict[str, Any], *, flipped: bool) -> Path:
    """Write a PiSSA run with its own step 0."""
    settings = lora_config(str(base), r=2, alpha=4, fan_in_fan_out=flipped, init_lora_weights="pissa")
    for step, name in ((0, "start"), (10, "trained")):
        named = {as_conv1d(module) if flipped else module: pair for module, pair in factors[name].items()}
        write_adapter(directory / f"checkpoint-{step}", settings, named)
    return directory


def test_a_base_that_stores_transposed_drifts_as_one_that_does_not(tmp_path: Path) -> None:
    base = small_base(tmp_path / "base", width=48)
    factors = moved_factors(base, last=False, step=1e-2)
    flipped = {as_conv1d(n): t.T if t.ndim == 2 else t for n, t in base_tensors(base).items()}
    transposed = write_model(tmp_path / "transposed", flipped)
    (transposed / "config.json").write_text('{"model_type": "gpt2"}')
    straight = open_case(pissa_run(tmp_path / "a", base, factors, flipped=False))
    case = open_case(pissa_run(tmp_path / "b", transposed, factors, flipped=True))
    for module in ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj"):
        found = predict(straight, module, torch.bfloat16, 10)
        assert predict(case, as_conv1d(module), torch.bfloat16, 10) == found
    named = only(case.path, "merge_drift").evidence.says
    assert named == only(straight.path, "merge_drift").evidence.says
