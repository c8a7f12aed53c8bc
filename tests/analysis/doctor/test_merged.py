"""Merged checkpoints beside an adapter: right, on the wrong base, drifted, or of something else."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from spectra.linalg.measures.merge_drift import simulate
from tests.analysis.doctor.faulty_runs import base_tensors, drawn_start, moved_factors, only, seen
from tests.builders import lora_config, randn, small_base, small_factors, write_adapter, write_model

Change = Callable[[str, Tensor], Tensor]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return small_base(tmp_path / "base")


def plain(tmp_path: Path, base: Path) -> tuple[Path, Change]:
    """A LoRA, and from a module and its base weight to W + ΔW."""
    factors = small_factors(r=2, scale=1e-2)
    adapter = write_adapter(tmp_path / "a", lora_config(str(base), r=2, alpha=4), factors)
    return (
        adapter,
        lambda module, weight: weight + 2 * factors[module][0].float().double() @ factors[module][1].float().double(),
    )


def merge(adapter: Path, base: Path, change: Change, dtype: torch.dtype = torch.float32) -> None:
    tensors = {}
    for name, weight in base_tensors(base).items():
        module = name.removesuffix(".weight")
        tensors[name] = (change(module, weight.double()) if weight.ndim == 2 else weight).to(dtype)
    write_model(adapter / "merged", tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_right_merge(dtype: torch.dtype, base: Path, tmp_path: Path) -> None:
    adapter, change = plain(tmp_path, base)
    merge(adapter, base, change, dtype)
    assert only(adapter, "merged").status == "ok"


def test_a_merge_whose_rounding_hides_the_update(base: Path, tmp_path: Path) -> None:
    factors = small_factors(r=2, scale=1e-5)
    adapter = write_adapter(tmp_path / "a", lora_config(str(base), r=2, alpha=4), factors)
    merge(adapter, base, lambda m, w: w + 2 * factors[m][0] @ factors[m][1], torch.bfloat16)
    check = only(adapter, "merged")
    assert (check.status, "times the update" in check.evidence.says) == ("note", True)


@pytest.mark.parametrize("last", [True, False])
def test_a_merge_on_the_pristine_base(last: bool, base: Path, tmp_path: Path) -> None:
    factors = moved_factors(base, last=last, step=1e-3)
    settings = lora_config(str(base), r=2, alpha=4, init_lora_weights="pissa")
    if last:  # as a run of ours keeps MiLoRA: stacked, on the original base
        stacked = {
            m: (torch.cat([b, -factors["start"][m][0]], 1), torch.cat([a, factors["start"][m][1]]))
            for m, (b, a) in factors["trained"].items()
        }
        adapter = write_adapter(tmp_path / "a", lora_config(str(base), r=4, alpha=8), stacked)
    else:
        adapter = write_adapter(tmp_path / "a", settings, factors["trained"])
    merge(adapter, base, lambda m, w: w + 2 * factors["trained"][m][0] @ factors["trained"][m][1])
    check = only(adapter, "merged")
    assert (check.status, check.verdict) == ("fault", "wrong_base")
    assert f"the {'last' if last else 'first'} 2 singular directions of its base twice" in check.evidence.says


def test_a_merge_of_another_adapter(base: Path, tmp_path: Path) -> None:
    adapter, _ = plain(tmp_path, base)
    others = small_factors(r=2, scale=1e-2, seed=900)
    merge(adapter, base, lambda m, w: w + 2 * others[m][0] @ others[m][1])
    check = only(adapter, "merged")
    assert (check.status, check.verdict, "another adapter" in check.evidence.says) == ("note", None, True)


def test_a_merge_on_another_start(base: Path, tmp_path: Path) -> None:
    adapter, change = plain(tmp_path, base)
    others = small_factors(r=2, scale=5e-2, seed=900)
    merge(adapter, base, lambda m, w: change(m, w) + 2 * others[m][0] @ others[m][1])
    check = only(adapter, "merged")
    assert (check.status, check.verdict, "low rank" in check.evidence.says) == ("fault", "wrong_base", True)


def test_a_merge_on_a_start_drawn_again(base: Path, tmp_path: Path) -> None:
    adapter, change = plain(tmp_path, base)
    merge(adapter, base, lambda m, w: change(m, w) - drawn_start(w, seed=0) + drawn_start(w, seed=1))
    check = only(adapter, "merged")
    assert (check.status, check.verdict, "drawn again" in check.evidence.says) == ("fault", "wrong_base", True)


def test_a_fine_tuned_model_beside_the_adapter(base: Path, tmp_path: Path) -> None:
    adapter, _ = plain(tmp_path, base)
    merge(adapter, base, lambda module, weight: weight + 3e-3 * randn(*weight.shape, seed=77))
    check = only(adapter, "merged")
    assert (check.status, check.verdict, "another model" in check.evidence.says) == ("note", None, True)


def test_a_base_matrix_of_zeros_is_left_out(base: Path, tmp_path: Path) -> None:
    tensors = base_tensors(base)
    tensors["model.layers.0.self_attn.q_proj.weight"].zero_()
    write_model(base, tensors)
    adapter, change = plain(tmp_path, base)
    merge(adapter, base, change)
    assert only(adapter, "merged").status == "ok"
    assert only(adapter, "wrong_base").status == "ok"


def test_weights_that_drifted(base: Path, tmp_path: Path) -> None:
    adapter, change = plain(tmp_path, base)

    def drifted(module: str, weight: Tensor) -> Tensor:
        delta = (change(module, weight) - weight).float()
        frozen = simulate(weight, lambda cycle: delta * (cycle / 300), torch.bfloat16, [300])[300]
        return frozen.double() + delta.double()

    merge(adapter, base, drifted, torch.bfloat16)
    check = only(adapter, "merged")
    assert (check.status, check.verdict) == ("fault", "merge_drift")


def test_a_copy_of_the_base(base: Path, tmp_path: Path) -> None:
    adapter, _ = plain(tmp_path, base)
    merge(adapter, base, lambda module, weight: weight, torch.bfloat16)
    check = only(adapter, "merged")
    assert (check.status, "base itself" in check.evidence.says) == ("ok", True)


def test_a_merge_of_an_earlier_snapshot(base: Path, tmp_path: Path) -> None:
    from tests.builders import trainer_run

    run = trainer_run(tmp_path / "run", base, steps=(4, 8))
    factors = small_factors(scale=1e-3 * 4)
    merge(run, base, lambda m, w: w + 2 * factors[m][0] @ factors[m][1])
    check = only(run, "merged")
    assert (check.status, "step 4" in check.evidence.says) == ("ok", True)


def test_a_merged_file_that_is_torn(base: Path, tmp_path: Path) -> None:
    adapter, change = plain(tmp_path, base)
    merge(adapter, base, change)
    (adapter / "merged" / "model.safetensors").write_bytes(b"torn" * 300)
    assert only(adapter, "merged").status == "fault"


def test_noise_beyond_rounding(base: Path, tmp_path: Path) -> None:
    adapter, change = plain(tmp_path, base)
    merge(adapter, base, lambda m, w: change(m, w) + 1e-2 * randn(*w.shape))
    assert only(adapter, "merged").verdict == "merge_drift"


def test_a_base_inside_the_run_is_no_merge(tmp_path: Path) -> None:
    base = small_base(tmp_path / "a" / "base")
    adapter = write_adapter(tmp_path / "a", lora_config(str(base), r=2, alpha=4), small_factors(r=2))
    assert seen(adapter, "merged") == []
