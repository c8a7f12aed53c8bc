"""Files that are missing, empty, torn or pickled."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from spectra.analysis.doctor import examine
from tests.analysis.doctor.faulty_runs import CONFIG, WEIGHTS, healthy_adapter, only, seen
from tests.builders import own_run, small_base, trainer_run


def test_a_whole_run_is_whole(tmp_path: Path) -> None:
    run = own_run(tmp_path / "run", small_base(tmp_path / "base"))
    assert only(run, "files").status == "ok"


def test_forty_bytes(tmp_path: Path) -> None:
    adapter = healthy_adapter(tmp_path / "a", small_base(tmp_path / "base"))
    header = b'{"__metadata__":{"format":"pt"}}'
    (adapter / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header)
    assert (adapter / WEIGHTS).stat().st_size == 40
    check = only(adapter, "files")
    assert check.status == "fault"
    assert "holds no tensor" in check.evidence.says
    assert "zero_to_fp32.py" in check.action


def test_a_torn_snapshot_is_a_fault_and_a_torn_newest_one_is_not(tmp_path: Path) -> None:
    run = trainer_run(tmp_path / "run", small_base(tmp_path / "base"), steps=(2, 4, 6))
    newest = run / "checkpoint-6" / WEIGHTS
    newest.write_bytes(newest.read_bytes()[:200])
    half = only(run, "files")
    assert (half.status, "half-written" in half.evidence.says) == ("note", True)
    earlier = run / "checkpoint-2" / WEIGHTS
    earlier.write_bytes(earlier.read_bytes()[:200])
    assert [check.status for check in seen(run, "files")] == ["fault", "note"]


def test_tensors_without_configuration(tmp_path: Path) -> None:
    adapter = healthy_adapter(tmp_path / "a", small_base(tmp_path / "base"))
    (adapter / CONFIG).unlink()
    assert any("adapter_config.json" in check.evidence.says for check in seen(adapter, "files"))


def test_configuration_without_tensors(tmp_path: Path) -> None:
    adapter = healthy_adapter(tmp_path / "a", small_base(tmp_path / "base"))
    (adapter / WEIGHTS).unlink()
    check = only(adapter, "files")
    assert (check.status, check.action) == ("fault", "copy the missing file")


def test_a_pickled_adapter_is_read_and_mentioned(tmp_path: Path) -> None:
    base = small_base(tmp_path / "base")
    adapter = healthy_adapter(tmp_path / "a", base)
    torch.save(load_file(adapter / WEIGHTS), adapter / "adapter_model.bin")
    (adapter / WEIGHTS).unlink()
    assert only(adapter, "files", base).status == "note"
    assert examine(adapter, base).exit_code == 0


def test_a_run_without_snapshots(tmp_path: Path) -> None:
    run = own_run(tmp_path / "run", small_base(tmp_path / "base"))
    shutil.rmtree(run / "snapshots")
    check = only(run, "files")
    assert (check.status, "without snapshots" in check.evidence.says) == ("fault", True)
    assert "first snapshot" in check.action


def test_a_snapshot_that_holds_nothing(tmp_path: Path) -> None:
    run = trainer_run(tmp_path / "run", small_base(tmp_path / "base"), steps=(2, 4))
    (run / "checkpoint-4" / WEIGHTS).unlink()
    check = only(run, "files")
    assert (check.status, check.where) == ("fault", "checkpoint-4")
