"""A base that is not the run's."""

from pathlib import Path

from safetensors.torch import save_file

from tests.analysis.doctor.ailments import base_tensors, only, seen
from tests.builders import own_run, small_base, trainer_run


def test_the_bases_of_a_run(tmp_path: Path) -> None:
    base = small_base(tmp_path / "base")
    run = own_run(tmp_path / "run", base)
    assert only(run, "base").status == "ok"
    tensors = base_tensors(base)
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] += 1e-6
    save_file(tensors, base / "model.safetensors")
    check = only(run, "base")
    assert (check.status, check.verdict, check.evidence.value) == ("fault", "wrong_base", 1 / 8)
    assert "first model.layers.1.mlp.up_proj.weight" in check.evidence.says


def test_a_base_of_other_parameters(tmp_path: Path) -> None:
    run = own_run(tmp_path / "run", small_base(tmp_path / "base"))
    deeper = small_base(tmp_path / "deeper", layers=3)
    check = only(run, "base", deeper)
    assert (check.status, "4 parameters are in only one" in check.evidence.says) == ("fault", True)


def test_the_base_in_another_dtype(tmp_path: Path) -> None:
    import torch

    run = own_run(tmp_path / "run", small_base(tmp_path / "base"))
    assert only(run, "base", small_base(tmp_path / "half", dtype=torch.bfloat16)).verdict == "wrong_base"


def test_a_run_that_does_not_say_cannot_be_compared(tmp_path: Path) -> None:
    run = trainer_run(tmp_path / "run", small_base(tmp_path / "base"))
    assert seen(run, "base") == []


def test_a_base_that_is_gone(tmp_path: Path) -> None:
    run = trainer_run(tmp_path / "run", tmp_path / "gone")
    assert only(run, "base").status == "skipped"
