"""Which layouts are recognized, in which order, and the error if none is."""

import json
import shutil
from pathlib import Path

import pytest

from spectra.errors import CorruptFileError, RunNotFoundError
from spectra.runs.directory import open_run
from tests.builders import lora_config, own_run, small_base, small_factors, trainer_run, write_adapter


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_base(tmp_path_factory.mktemp("base"))


def test_own_run(tmp_path: Path, base: Path) -> None:
    run = open_run(own_run(tmp_path, base))
    assert run.layout == "spectra"
    assert [s.step for s in run.snapshots] == [0, 2, 4]
    assert run.initial == tmp_path / "snapshots" / "step_000000"
    assert run.base_name == str(base)
    assert run.series()["reward"].notna().all()
    assert run.describe() == "spectra run, 3 snapshots, steps 0–4"


def test_trainer_checkpoints_sort_as_numbers(tmp_path: Path, base: Path) -> None:
    run = open_run(trainer_run(tmp_path, base, steps=(2, 10, 9)))
    assert [s.step for s in run.snapshots] == [2, 9, 10]
    assert run.base_name == str(base)
    assert run.series()["step"].max() == 10
    assert "zero_advantage_share" in run.series()


def test_a_half_written_checkpoint_is_named_not_read(tmp_path: Path, base: Path) -> None:
    trainer_run(tmp_path, base)
    (tmp_path / "checkpoint-12").mkdir()
    (tmp_path / ".step_000020.ab.tmp").mkdir()
    run = open_run(tmp_path)
    assert [s.step for s in run.snapshots] == [2, 10]
    assert run.ignored == {"checkpoint-12": "holds neither an adapter nor model weights"}


def test_one_adapter(tmp_path: Path, base: Path) -> None:
    write_adapter(tmp_path / "checkpoint-7", lora_config(str(base)), small_factors())
    run = open_run(tmp_path / "checkpoint-7")
    assert (run.layout, run.snapshots[0].step, run.snapshots[0].kind) == ("adapter", 7, "adapter")
    assert run.series()["step"].tolist() == []


def test_an_adapter_wins_over_the_merged_model_beside_it(tmp_path: Path, base: Path) -> None:
    write_adapter(tmp_path, lora_config(str(base)), small_factors())
    for name in ("config.json", "model.safetensors"):
        shutil.copy(base / name, tmp_path / name)
    assert open_run(tmp_path).snapshots[0].kind == "adapter"


def test_one_full_checkpoint(base: Path) -> None:
    run = open_run(base)
    assert (run.layout, run.snapshots[0].kind, run.base_name) == ("checkpoint", "full", None)


def test_an_unrecognized_directory_names_what_was_searched_for(tmp_path: Path) -> None:
    with pytest.raises(RunNotFoundError, match="no such directory"):
        open_run(tmp_path / "absent")
    with pytest.raises(RunNotFoundError, match=r"searched for manifest.json, checkpoint-N/, global_step_N/ \(verl\)"):
        open_run(tmp_path)
    (tmp_path / "checkpoint-3").mkdir()
    with pytest.raises(RunNotFoundError, match="checkpoint-3: holds neither"):
        open_run(tmp_path)


def test_two_directories_of_one_step_are_an_error(tmp_path: Path, base: Path) -> None:
    trainer_run(tmp_path, base, steps=(2, 10))
    shutil.copytree(tmp_path / "checkpoint-2", tmp_path / "checkpoint-02")
    with pytest.raises(CorruptFileError, match="checkpoint-02 and checkpoint-2 are both step 2"):
        open_run(tmp_path)


def test_a_bare_step_is_nobodys_start(tmp_path: Path, base: Path) -> None:
    assert open_run(trainer_run(tmp_path / "a", base, steps=(0, 3))).initial == tmp_path / "a" / "checkpoint-0"
    assert open_run(tmp_path / "a" / "checkpoint-0").initial is None


def test_broken_files_are_named(tmp_path: Path, base: Path) -> None:
    trainer_run(tmp_path, base)
    (tmp_path / "checkpoint-10" / "adapter_config.json").write_text("{")
    with pytest.raises(CorruptFileError, match=r"checkpoint-10/adapter_config\.json"):
        open_run(tmp_path)
    own = own_run(tmp_path / "own", base)
    (own / "manifest.json").write_text(json.dumps({"schema_version": 1}))
    with pytest.raises(CorruptFileError, match="is not a manifest"):
        open_run(own)
