"""Learning rates far under the law, and updates that bfloat16 does not see."""

import json
from pathlib import Path

import pytest
import torch

from spectra.analysis.doctor.learning_rate import scaling_rule
from tests.analysis.doctor.faulty_runs import base_tensors, base_with_config, only, seen
from tests.builders import lora_config, own_run, small_base, small_factors, trainer_run, write_adapter, write_model


def with_rate(tmp_path: Path, rate: float, **settings: object) -> Path:
    base = base_with_config(tmp_path / "base", hidden_size=1536, model_type="qwen2", **settings)
    run = trainer_run(tmp_path / "run", base, steps=(4,))
    history = [{"step": 4, "learning_rate": rate}]
    (run / "checkpoint-4" / "trainer_state.json").write_text(json.dumps({"global_step": 4, "log_history": history}))
    return run


def test_the_law_by_hand() -> None:
    assert scaling_rule(1536, "qwen2", full=False) == pytest.approx(5.1e-4, rel=0.01)
    assert scaling_rule(1536, "qwen2", full=True) == pytest.approx(5.1e-5, rel=0.01)
    assert scaling_rule(2000, "llama", full=False) == pytest.approx(5e-4)
    assert scaling_rule(4096, "llama", full=False) == pytest.approx(5e-4 * (2000 / 4096) ** 0.781)


def test_a_rate_far_under_the_law(tmp_path: Path) -> None:
    check = only(with_rate(tmp_path, 1e-5), "learning_rate")
    assert (check.status, check.evidence.value) == ("note", 1e-5)
    assert "α/r (here s = 2)" in check.action


def test_a_rate_on_its_scale(tmp_path: Path) -> None:
    assert only(with_rate(tmp_path, 3e-4), "learning_rate").status == "ok"


def test_a_recipe_comes_before_the_log(tmp_path: Path) -> None:
    base = base_with_config(tmp_path / "base", hidden_size=1536, model_type="qwen2")
    run = own_run(tmp_path / "run", base)
    (run / "recipe.yaml").write_text("optimizer: {learning_rate: 1.0e-6}\nmethod: {name: lora, r: 4, alpha: 8}\n")
    assert only(run, "learning_rate").evidence.value == 1e-6


def test_an_unknown_family_has_no_law(tmp_path: Path) -> None:
    base = base_with_config(tmp_path / "base", hidden_size=1536, model_type="gpt2")
    assert seen(trainer_run(tmp_path / "run", base), "learning_rate") == []


def test_an_update_that_bfloat16_does_not_see(tmp_path: Path) -> None:
    run = with_rate(tmp_path, 3e-4)
    assert only(run, "visible_in_bf16").status == "ok"
    settings = lora_config(str(tmp_path / "base"))
    write_adapter(run / "checkpoint-4", settings, small_factors(scale=1e-9))
    check = only(run, "visible_in_bf16")
    assert check.status == "note"
    assert check.evidence.value == pytest.approx(0, abs=1e-3)


def test_visibility_rounds_once(tmp_path: Path) -> None:
    base = small_base(tmp_path / "base", layers=1)
    write_model(base, {name: torch.ones_like(tensor) for name, tensor in base_tensors(base).items()})
    run = tmp_path / "run"
    # 1 + 2^-8 is halfway between two bfloat16 numbers, and 1 + delta just beyond it: closer than float32 sees.
    delta = 2.0**-8 + 2.0**-40
    factors = {m: (torch.zeros_like(b), torch.zeros_like(a)) for m, (b, a) in small_factors(layers=1, r=2).items()}
    for b, a in factors.values():
        b[:, 0], b[:, 1], a[0], a[1] = 1.0, 1.0, 2.0**-8, 2.0**-40
    write_adapter(run / "checkpoint-4", lora_config(str(base), r=2, alpha=2), factors)
    (run / "checkpoint-4" / "trainer_state.json").write_text(json.dumps({"global_step": 4, "log_history": []}))
    assert float(torch.tensor(1 + delta, dtype=torch.float64).to(torch.bfloat16)) == 1.0
    assert only(run, "visible_in_bf16").evidence.value == 1.0
