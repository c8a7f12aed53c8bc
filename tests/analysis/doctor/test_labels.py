"""Configurations that do not fit their tensors, and tensors that are dead or no numbers."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from spectra.analysis.doctor import examine
from tests.analysis.doctor.faulty_runs import edit_config, edit_tensors, healthy_adapter, only, seen
from tests.builders import small_base, trainer_run

PREFIX = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return healthy_adapter(tmp_path / "adapter", small_base(tmp_path / "base"))


def with_magnitudes(tensors: dict[str, Tensor], only_first: bool = False) -> dict[str, Tensor]:
    names = [name for name in tensors if name.endswith("lora_B.weight")][: 1 if only_first else None]
    return tensors | {
        name.replace("lora_B.weight", "lora_magnitude_vector"): torch.ones(len(tensors[name])) for name in names
    }


def test_a_fitting_adapter(adapter: Path) -> None:
    assert only(adapter, "label").status == "ok"


def test_dora_without_magnitudes(adapter: Path) -> None:
    edit_config(adapter, use_dora=True)
    check = only(adapter, "label")
    assert (check.status, "contains no magnitude vector" in check.evidence.says) == ("fault", True)


def test_magnitudes_without_dora(adapter: Path) -> None:
    edit_tensors(adapter, with_magnitudes)
    check = only(adapter, "label")
    assert (check.status, "does not say use_dora" in check.evidence.says) == ("fault", True)


def test_dora_with_some_magnitudes(adapter: Path) -> None:
    edit_config(adapter, use_dora=True)
    edit_tensors(adapter, lambda tensors: with_magnitudes(tensors, only_first=True))
    assert any("only 1 of 6" in check.evidence.says for check in seen(adapter, "label"))


def test_dora_with_magnitudes_is_whole(adapter: Path) -> None:
    edit_config(adapter, use_dora=True)
    edit_tensors(adapter, with_magnitudes)
    assert only(adapter, "label").status == "ok"


def test_alpha_zero_and_zero_in_a_pattern(adapter: Path) -> None:
    edit_config(adapter, lora_alpha=4, alpha_pattern={"q_proj": 0})
    check = only(adapter, "label")
    assert (check.status, "in 2 of 6 modules" in check.evidence.says) == ("fault", True)
    edit_config(adapter, lora_alpha=0, alpha_pattern={})
    assert "in 6 of 6 modules" in only(adapter, "label").evidence.says


def test_another_rank(adapter: Path) -> None:
    edit_config(adapter, r=16)
    check = only(adapter, "label")
    assert check.status == "fault"
    assert (check.evidence.value, check.evidence.threshold) == (2.0, 16.0)


def test_a_rank_pattern_that_fits_and_one_that_matches_nothing(adapter: Path) -> None:
    edit_config(adapter, r=16, rank_pattern={".*_proj": 2})
    assert only(adapter, "label").status == "ok"
    edit_config(adapter, r=2, rank_pattern={"k_porj": 4})
    check = only(adapter, "label")
    assert (check.status, "k_porj" in check.evidence.says) == ("note", True)


def test_rslora_with_the_alpha_of_lora(adapter: Path) -> None:
    edit_config(adapter, use_rslora=True, lora_alpha=4)
    assert only(adapter, "label").status == "ok"
    edit_config(adapter, lora_alpha=64)
    check = only(adapter, "label")
    assert (check.status, check.evidence.value) == ("note", pytest.approx(64 / 2**0.5))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none(value: float, adapter: Path) -> None:
    edit_tensors(adapter, lambda tensors: tensors | {f"{PREFIX}.lora_B.weight": torch.full((24, 2), value)})
    check = only(adapter, "label")
    assert (check.status, check.verdict) == ("fault", "diverging")
    assert f"{PREFIX}.lora_B.weight" in check.evidence.says


def dead(tensors: dict[str, Tensor], pattern: str) -> dict[str, Tensor]:
    return {
        name: torch.zeros_like(tensor) if "lora_B" in name and pattern in name else tensor
        for name, tensor in tensors.items()
    }


def test_dead_modules(tmp_path: Path) -> None:
    run = trainer_run(tmp_path / "run", small_base(tmp_path / "base"), steps=(4,))
    edit_tensors(run / "checkpoint-4", lambda tensors: dead(tensors, "q_proj"))
    some = only(run, "label")
    assert (some.status, some.evidence.value, some.verdict) == ("note", pytest.approx(1 / 3), None)
    edit_tensors(run / "checkpoint-4", lambda tensors: dead(tensors, ""))
    every = only(run, "label")
    assert (every.status, every.evidence.value, every.verdict) == ("fault", 1.0, "not_learning")


def test_a_zero_adapter_of_unknown_step_may_be_a_start(adapter: Path) -> None:
    edit_tensors(adapter, lambda tensors: dead(tensors, ""))
    assert only(adapter, "label").status == "note"


def test_a_method_that_is_not_read(adapter: Path) -> None:
    edit_config(adapter, peft_type="PROMPT_TUNING")
    check = only(adapter, "label")
    assert (check.status, "PROMPT_TUNING" in check.evidence.says) == ("skipped", True)


@pytest.mark.parametrize("key", ["r", "lora_alpha"])
def test_a_rank_or_alpha_that_is_no_number(key: str, adapter: Path) -> None:
    edit_config(adapter, **{key: None})
    check = only(adapter, "label")
    assert (check.status, f"{key} must be" in check.evidence.says and "got None" in check.evidence.says) == (
        "fault",
        True,
    )


def test_a_factor_that_is_missing(adapter: Path) -> None:
    edit_tensors(adapter, lambda t: {n: x for n, x in t.items() if n != f"{PREFIX}.lora_B.weight"})
    (check,) = examine(adapter).faults
    assert (check.name, check.evidence.value, "q_proj: no lora_B" in check.evidence.says) == ("label", 1.0, True)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"r": 0}, "r must be a positive integer, got 0"),
        ({"r": -1}, "got -1"),
        ({"r": True}, "got True"),
        ({"r": "4"}, "got '4'"),
        ({"lora_alpha": float("nan")}, "lora_alpha must be a finite number, got nan"),
        ({"rank_pattern": {"q_proj": "x"}}, "got 'x'"),
        ({"rank_pattern": {"k_proj": "x"}}, "got 'x'"),
        ({"rank_pattern": {"(": 4}}, "not a regular expression"),
        ({"rank_pattern": [4]}, "got [4]"),
        ({"alpha_pattern": {"q_proj": None}}, "lora_alpha must be a finite number, got None"),
        ({"init_lora_weights": {}}, "init_lora_weights is {}"),
        ({"init_lora_weights": "pissa_niter_x"}, "init_lora_weights is 'pissa_niter_x'"),
        ({"use_bdlora": True}, "use_bdlora is True"),
    ],
)
def test_values_that_no_configuration_has(settings: dict[str, object], says: str, adapter: Path) -> None:
    edit_config(adapter, **settings)
    check = only(adapter, "label")
    assert (check.status, says in check.evidence.says) == ("fault", True)
    assert examine(adapter).verdict is None


def test_a_base_that_is_no_name(adapter: Path) -> None:
    edit_config(adapter, base_model_name_or_path=5)
    found = examine(adapter)
    assert found.verdict is None
    assert any("5" in check.evidence.says for check in found.faults)


def test_an_adapter_in_float8(adapter: Path) -> None:
    edit_tensors(adapter, lambda tensors: {name: tensor.to(torch.float8_e4m3fn) for name, tensor in tensors.items()})
    assert only(adapter, "label").status == "ok"
    broken = torch.full((24, 2), float("nan")).to(torch.float8_e4m3fn)
    edit_tensors(adapter, lambda tensors: tensors | {f"{PREFIX}.lora_B.weight": broken})
    assert only(adapter, "label").verdict == "diverging"


@pytest.mark.parametrize(("rows", "status"), [(8, "ok"), (7, "fault")])
def test_stacked_experts_have_r_rows_each(rows: int, status: str, adapter: Path) -> None:
    edit_config(adapter, target_parameters=["mlp.experts.down_proj"])
    module = "base_model.model.model.layers.0.mlp.experts"
    stack = {f"{module}.lora_A.weight": torch.ones(rows, 24), f"{module}.lora_B.weight": torch.ones(16, rows)}
    edit_tensors(adapter, lambda tensors: tensors | stack)
    assert [check.status for check in seen(adapter, "label")] == [status]
