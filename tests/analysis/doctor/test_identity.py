"""A base that is not the run's."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from spectra.analysis.doctor import examine
from tests.analysis.doctor.faulty_runs import base_tensors, healthy_adapter, only, seen
from tests.builders import own_run, small_base, trainer_run, write_model


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


def test_a_quantized_directory_is_no_base(tmp_path: Path) -> None:
    packed = {
        name: torch.zeros(tensor.numel() // 2, 1, dtype=torch.uint8) if tensor.ndim == 2 else tensor
        for name, tensor in base_tensors(small_base(tmp_path / "base")).items()
    }
    base = write_model(tmp_path / "model-bnb-4bit", packed)
    (base / "config.json").write_text('{"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true}}')
    diagnosis = examine(healthy_adapter(tmp_path / "a", base))
    assert diagnosis.faults == ()
    (check,) = [check for check in diagnosis.checks if check.name == "base"]
    assert (check.status, "quantized (bitsandbytes)" in check.evidence.says) == ("skipped", True)
    assert not any("float32" in check.evidence.says for check in diagnosis.checks)


def test_a_quantized_name_says_which_base_to_give(tmp_path: Path) -> None:
    adapter = healthy_adapter(tmp_path / "a", Path("unsloth/Qwen2.5-7B-bnb-4bit"))
    check = only(adapter, "base")
    assert (check.status, "likely --base unsloth/Qwen2.5-7B" in check.action) == ("skipped", True)
