"""Full checkpoints that hold a block of their base twice or not at all."""

from pathlib import Path

import pytest
import torch

from spectra.analysis.doctor import case, full_checkpoint
from spectra.linalg.decompositions.basis import Factors, thin_svd
from tests.analysis.doctor.faulty_runs import base_tensors, drawn_start, moved_factors, only
from tests.builders import randn, small_base, write_model


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return small_base(tmp_path / "base", width=32)


def checkpoint(tmp_path: Path, base: Path, factors: dict[str, object], sign: float, dtype: torch.dtype) -> Path:
    tensors = base_tensors(base)
    for module, (b, a) in factors.items():  # type: ignore[misc]
        tensors[f"{module}.weight"] = (tensors[f"{module}.weight"].double() + sign * 2 * b @ a).to(dtype)  # type: ignore[has-type]
    return write_model(tmp_path / "full", tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("last", "end"), [(False, "first"), (True, "last")])
def test_a_doubled_block(last: bool, end: str, dtype: torch.dtype, base: Path, tmp_path: Path) -> None:
    factors = moved_factors(base, last=last, step=1e-3)
    path = checkpoint(tmp_path, base, factors["trained"], 1.0, dtype)
    check = only(path, "wrong_base", base)
    assert (check.status, check.verdict) == ("fault", "wrong_base")
    assert f"contains twice the {end} 2 singular directions" in check.evidence.says
    assert check.evidence.value == pytest.approx(1.0, abs=0.1)


def test_a_residual_base(base: Path, tmp_path: Path) -> None:
    path = checkpoint(tmp_path, base, moved_factors(base, last=False)["start"], -1.0, torch.float32)
    check = only(path, "wrong_base", base)
    assert (check.status, "it is a residual base" in check.evidence.says) == ("fault", True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_start_drawn_again(dtype: torch.dtype, base: Path, tmp_path: Path) -> None:
    tensors = base_tensors(base)
    for name, weight in tensors.items():
        if weight.ndim == 2:
            trained = randn(weight.shape[0], 2).float() @ randn(2, weight.shape[1], seed=1).float()
            moved = weight + 0.02 * weight.norm() * trained / trained.norm()
            tensors[name] = (moved - drawn_start(weight, seed=0) + drawn_start(weight, seed=1)).to(dtype)
    check = only(write_model(tmp_path / "full", tensors), "wrong_base", base)
    assert (check.status, check.verdict) == ("fault", "wrong_base")
    assert "drawn again" in check.evidence.says
    assert 0.9 < check.evidence.value <= 1


@pytest.mark.parametrize("kind", ["isotropic", "principal", "decay", "rows", "columns", "values", "copy"])
def test_fine_tuning_is_no_offset(kind: str, base: Path, tmp_path: Path) -> None:
    tensors = base_tensors(base)
    for name, weight in tensors.items():
        if weight.ndim == 2:
            u, s, vh = torch.linalg.svd(weight, full_matrices=False)
            change = {
                "isotropic": 1e-3 * randn(*weight.shape).float(),
                "principal": 0.02 * (u[:, :2] * s[:2]) @ vh[:2],
                "decay": -0.05 * weight,
                "rows": 0.1 * randn(len(weight), 1).float() * weight,
                "columns": 0.1 * randn(1, weight.shape[1]).float() * weight,
                "values": (u * (0.1 * randn(len(s)).float() * s)) @ vh,
                "copy": 0 * weight,
            }[kind]
            tensors[name] = weight + change
    assert only(write_model(tmp_path / "full", tensors), "wrong_base", base).status == "ok"


def test_a_large_change_of_low_rank_is_worth_a_look(base: Path, tmp_path: Path) -> None:
    tensors = base_tensors(base)
    for name, weight in tensors.items():
        if weight.ndim == 2:
            low = randn(weight.shape[0], 2).float() @ randn(2, weight.shape[1], seed=1).float()
            tensors[name] = weight + 0.3 * weight.norm() * low / low.norm()
    check = only(write_model(tmp_path / "full", tensors), "wrong_base", base)
    assert (check.status, check.evidence.value) == ("note", pytest.approx(0.3, rel=1e-3))


@pytest.mark.parametrize("last", [True, False])
def test_where_few_matrices_train(last: bool, base: Path, tmp_path: Path) -> None:
    tensors = base_tensors(base)
    matrices = sorted(name for name, tensor in tensors.items() if tensor.ndim == 2)
    name = matrices[-1 if last else 0]
    change = randn(*tensors[name].shape).float()
    tensors[name] = tensors[name] + 0.03 * tensors[name].norm() * change / change.norm()
    check = only(write_model(tmp_path / "full", tensors), "wrong_base", base)
    assert check.status == "ok"
    assert "differs from its base by 0.03·‖W‖" in check.evidence.says
    assert check.evidence.value == pytest.approx(0.03, rel=1e-3)


def test_the_few_that_train_are_found_beside_a_sample_of_others(
    monkeypatch: pytest.MonkeyPatch, base: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(full_checkpoint, "_MATRICES", 1)
    tensors = base_tensors(base)
    for name in [name for name, tensor in tensors.items() if tensor.ndim == 2]:
        moved = {**tensors, name: 1.001 * tensors[name]}
        check = only(write_model(tmp_path / name, moved), "wrong_base", base)
        assert check.evidence.value == pytest.approx(1e-3, rel=1e-3)


def test_a_copy_differs_nowhere(base: Path, tmp_path: Path) -> None:
    check = only(write_model(tmp_path / "full", base_tensors(base)), "wrong_base", base)
    assert (check.status, check.evidence.value) == ("ok", 0.0)
    assert check.evidence.says == "none of 6 matrices of the checkpoint differs from its base"


@pytest.mark.parametrize("last", [False, True])
def test_a_doubled_block_in_one_matrix_of_six(last: bool, base: Path, tmp_path: Path) -> None:
    factors = moved_factors(base, last=last, step=1e-3)["trained"]
    one = dict([next(iter(factors.items()))])
    path = checkpoint(tmp_path, base, one, 1.0, torch.float32)
    assert only(path, "wrong_base", base).status == "fault"


def test_without_a_base(base: Path, tmp_path: Path) -> None:
    path = write_model(tmp_path / "full", base_tensors(base))
    assert only(path, "wrong_base").status == "skipped"


def test_a_base_matrix_of_zeros_is_left_out(base: Path, tmp_path: Path) -> None:
    tensors = base_tensors(base)
    tensors["model.layers.0.self_attn.q_proj.weight"].zero_()
    write_model(base, tensors)
    moved = {name: tensor + 1e-3 * randn(*tensor.shape).float() for name, tensor in tensors.items()}
    assert only(write_model(tmp_path / "full", moved), "wrong_base", base).status == "ok"


def test_decompositions_keep_to_a_budget(monkeypatch: pytest.MonkeyPatch, base: Path, tmp_path: Path) -> None:
    seen: list[torch.Tensor] = []

    def counted(weight: torch.Tensor) -> Factors:
        seen.append(weight)
        return thin_svd(weight)

    monkeypatch.setattr(full_checkpoint, "thin_svd", counted)
    path = write_model(tmp_path / "full", {name: 1.001 * tensor for name, tensor in base_tensors(base).items()})
    only(path, "wrong_base", base)
    assert len(seen) == 6
    seen.clear()
    monkeypatch.setattr(case, "_BUDGET", 3 * 2 * 32**3)
    only(path, "wrong_base", base)
    assert len(seen) == 3
