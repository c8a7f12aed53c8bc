"""``spectra doctor`` as a function: what it returns, and what it refuses."""

from pathlib import Path

import pytest

from spectra.commands.doctor import doctor
from spectra.errors import UsageError
from tests.builders import own_run, small_base


def test_a_healthy_run(tmp_path: Path) -> None:
    base = small_base(tmp_path / "base")
    diagnosis = doctor(own_run(tmp_path / "run", base))
    assert (diagnosis.exit_code, diagnosis.verdict) == (0, None)
    assert list(diagnosis.lines())[0].endswith("spectra run, 3 snapshots, steps 0–4")


def test_a_faulty_run(tmp_path: Path) -> None:
    run = own_run(tmp_path / "run", small_base(tmp_path / "base"))
    other = small_base(tmp_path / "other", seed=3)
    diagnosis = doctor(run, str(other))
    assert (diagnosis.exit_code, diagnosis.verdict) == (1, "wrong_base")
    assert diagnosis.as_json()["verdict"] == "wrong_base"


def test_a_path_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such directory") as refused:
        doctor(tmp_path / "nowhere")
    assert refused.value.exit_code == 2


def test_a_file_is_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").touch()
    with pytest.raises(UsageError, match="is a file"):
        doctor(tmp_path / "weights.safetensors")
