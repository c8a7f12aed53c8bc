"""Adapters whose base was moved: with and without their start, and what a plain load would do."""

from pathlib import Path

import pytest
import torch

from spectra.analysis.doctor import examine
from spectra.analysis.doctor.case import open_case
from spectra.analysis.doctor.reload import predict, taken
from tests.analysis.doctor.faulty_runs import (
    base_tensors,
    edit_config,
    edit_tensors,
    healthy_adapter,
    moved_factors,
    only,
    seen,
)
from tests.builders import lora_config, matrix, small_base, write_adapter


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return small_base(tmp_path / "base")


def write(directory: Path, base: Path, init: object, factors: object) -> Path:
    return write_adapter(directory, lora_config(str(base), r=2, alpha=4, init_lora_weights=init), factors)  # type: ignore[arg-type]


def block_share(base: Path, *, last: bool) -> float:
    """Median over matrices of ‖W_2‖/‖W‖."""
    shares = []
    for weight in base_tensors(base).values():
        if weight.ndim == 2:
            s = torch.linalg.svdvals(weight.double())
            shares.append(float((s[-2:] if last else s[:2]).norm() / s.norm()))
    return sorted(shares)[len(shares) // 2]


def test_pissa_is_recomputed_and_a_note(base: Path, tmp_path: Path) -> None:
    factors = moved_factors(base, last=False)
    adapter = write(tmp_path / "a", base, "pissa", factors["trained"])
    diagnosis = examine(adapter)
    assert diagnosis.exit_code == 0
    check = only(adapter, "wrong_base")
    assert check.status == "note"
    assert check.evidence.value == pytest.approx(block_share(base, last=False), rel=0.05)
    assert only(adapter, "reload").status == "ok"


def test_random_pissa_without_its_start_is_a_fault(base: Path, tmp_path: Path) -> None:
    adapter = write(tmp_path / "a", base, "pissa_niter_1", moved_factors(base, last=False)["trained"])
    check = only(adapter, "wrong_base")
    assert (check.status, check.verdict) == ("fault", "wrong_base")
    assert "--initial DIR" in check.action


def test_random_pissa_with_its_start_names_the_error_of_a_load(base: Path, tmp_path: Path) -> None:
    factors = moved_factors(base, last=False)
    start = write(tmp_path / "start", base, "pissa_niter_1", factors["start"])
    adapter = write(tmp_path / "a", base, "pissa_niter_1", factors["trained"])
    checks = seen(adapter, "wrong_base", initial=start)
    assert [check.status for check in checks] == ["note"]
    (load,) = seen(adapter, "reload", initial=start)
    assert load.evidence.value is not None
    assert load.status == ("ok" if load.evidence.value <= load.evidence.threshold else "note")  # type: ignore[operator]


def test_milora_that_calls_itself_lora(base: Path, tmp_path: Path) -> None:
    adapter = write(tmp_path / "a", base, True, moved_factors(base, last=True)["trained"])
    check = only(adapter, "wrong_base")
    assert (check.status, check.verdict) == ("fault", "wrong_base")
    assert "milora by its tensors" in check.evidence.says
    assert check.evidence.value == pytest.approx(block_share(base, last=True), rel=0.05)


def test_pissa_that_calls_itself_lora(base: Path, tmp_path: Path) -> None:
    adapter = write(tmp_path / "a", base, True, moved_factors(base, last=False)["trained"])
    check = only(adapter, "wrong_base")
    assert (check.status, "pissa by its tensors" in check.evidence.says) == ("fault", True)


def test_lora_along_the_base_is_not_milora(base: Path, tmp_path: Path) -> None:
    # A small update in the base's own first directions is principal, and no constant offset.
    factors = {m: (b * 0.01, a) for m, (b, a) in moved_factors(base, last=False)["start"].items()}
    adapter = write(tmp_path / "a", base, True, factors)
    assert only(adapter, "wrong_base").status == "ok"


def test_a_start_of_another_base_is_a_fault(base: Path, tmp_path: Path) -> None:
    other = small_base(tmp_path / "other", seed=50)
    start = write(tmp_path / "start", base, "pissa", moved_factors(other, last=False)["start"])
    adapter = write(tmp_path / "a", base, "pissa", moved_factors(base, last=False)["trained"])
    (check,) = seen(adapter, "wrong_base", initial=start)
    assert (check.status, "away from what pissa takes out" in check.evidence.says) == ("fault", True)


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_1", "pissa_niter_4", True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_predicted_error_is_what_peft_makes(init: object, dtype: torch.dtype, tmp_path: Path) -> None:
    from peft import LoraConfig, PeftModel
    from torch import nn

    from spectra.runs.layout import MODEL_CONFIG
    from tests.builders import write_model

    weight = matrix(40, 32, condition=8, seed=3).to(dtype)
    base = write_model(tmp_path / "base", {"0.weight": weight})
    assert (base / MODEL_CONFIG).exists()
    factors = moved_factors(base, 4, last=init is True, step=1e-3)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["0"], "init_lora_weights": init}
    adapter = write_adapter(
        tmp_path / "a", {"peft_type": "LORA", "base_model_name_or_path": str(base)}, factors["trained"]
    )
    LoraConfig(**settings, base_model_name_or_path=str(base)).save_pretrained(adapter)
    start = write_adapter(
        tmp_path / "start", lora_config(str(base), r=4, alpha=8, init_lora_weights=init), factors["start"]
    )
    ((b, a),), ((b0, a0),) = factors["trained"].values(), factors["start"].values()
    trained = weight.double() + 2 * (b @ a - b0 @ a0)

    errors = []
    for seed in range(10, 16):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(32, 40, bias=False))
        model[0].weight.data = weight.clone()
        merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
        errors.append(float((merged[0].weight.double() - trained).norm() / weight.double().norm()))
    (found,) = predict(open_case(adapter, initial=start), "milora" if init is True else str(init))
    middle = sorted(errors)[3]
    if init == "pissa" and dtype is torch.float32:
        assert max(middle, found.peft) < 1e-5
    else:
        assert found.peft == pytest.approx(middle, rel=0.5 if "niter" in str(init) else 0.05)
    assert found.added == pytest.approx(float(2 * (b0 @ a0).norm() / weight.double().norm()), rel=1e-5)


def test_what_olora_takes_follows_from_the_base() -> None:
    from peft import LoraConfig, get_peft_model
    from torch import nn

    weight = matrix(30, 20).float()
    model = nn.Sequential(nn.Linear(20, 30, bias=False))
    model[0].weight.data = weight.clone()
    made = get_peft_model(model, LoraConfig(r=3, lora_alpha=6, target_modules=["0"], init_lora_weights="olora"))
    removed = weight - made.base_model.model[0].base_layer.weight.detach()
    assert torch.allclose(taken(weight.double(), 3, "olora", 0, 2.0).dense().float(), removed, atol=1e-5)


def test_redrawing_leaves_the_global_stream_alone() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = taken(matrix(30, 20), 3, "pissa_niter_2", 0).dense()
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(taken(matrix(30, 20), 3, "pissa_niter_2", 0).dense(), first)
    assert not torch.equal(taken(matrix(30, 20), 3, "pissa_niter_2", 1).dense(), first)


@pytest.mark.parametrize("settings", [{"r": 4}, {"r": 1}])
def test_a_rank_that_does_not_fit_is_no_milora(settings: dict[str, object], base: Path, tmp_path: Path) -> None:
    adapter = healthy_adapter(tmp_path / "a", base)
    edit_config(adapter, **settings)
    check = only(adapter, "wrong_base")
    assert (check.status, check.verdict, "rank" in check.evidence.says) == ("skipped", None, True)
    assert examine(adapter).verdict is None


def test_a_signature_that_only_the_start_finds(base: Path, tmp_path: Path) -> None:
    # Three times MiLoRA's start: no doubled block, and its directions all the same.
    factors = {m: (6 * b, a) for m, (b, a) in moved_factors(base, last=True)["start"].items()}
    adapter = write(tmp_path / "a", base, True, factors)
    check = only(adapter, "wrong_base")
    assert (check.status, check.verdict) == ("fault", "wrong_base")
    assert "milora by its tensors" in check.evidence.says


def test_a_factor_that_is_missing_does_not_hide_the_block(base: Path, tmp_path: Path) -> None:
    adapter = write(tmp_path / "a", base, True, moved_factors(base, last=True)["trained"])
    edit_tensors(adapter, lambda t: {n: x for n, x in t.items() if "layers.0.self_attn.q_proj.lora_B" not in n})
    assert only(adapter, "wrong_base").verdict == "wrong_base"
