"""The Python face, as a notebook uses it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import spectra
from spectra.errors import UsageError
from tests.builders import own_run, small_base, small_factors

MODULE = "model.layers.1.mlp.up_proj"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> spectra.Run:
    monkeypatch.setenv("SPECTRA_CACHE", str(tmp_path / "cache"))
    return spectra.open(own_run(tmp_path / "run", small_base(tmp_path / "base")))


def test_updates_and_bases(run: spectra.Run) -> None:
    b, a = small_factors(scale=4e-3)[MODULE]
    dense = 2 * b.float().double() @ a.float().double()
    torch.testing.assert_close(run.update(MODULE).dense(), dense)
    torch.testing.assert_close(run.update(MODULE, step=2).dense(), dense / 2, rtol=1e-6, atol=1e-12)
    basis = run.basis(MODULE)
    torch.testing.assert_close(basis.left @ torch.diag(basis.sigma) @ basis.right.T, run.weight(MODULE))


def test_tables_and_faces(run: spectra.Run) -> None:
    assert (run.steps, run.method, len(run.modules)) == ([0, 2, 4], "lora", 6)
    assert "not analyzed yet" in run._repr_html_()
    tables = run.analyze()
    assert len(tables.modules) == 18
    assert "3 snapshots" in repr(run)
    assert "Healthy" in run._repr_html_()
    ax = spectra.figures.profile(tables, side="left")
    assert ax.lines


def test_what_is_not_there_is_said(run: spectra.Run) -> None:
    with pytest.raises(UsageError, match=r"no snapshot of step 3; steps: \[0, 2, 4\]"):
        run.update(MODULE, step=3)
    with pytest.raises(UsageError, match="does not change a matrix named 'x'; for example, it changes model.layers.0"):
        run.update("x")
    with pytest.raises(UsageError, match="the base has no parameter 'x'"):
        run.weight("x")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        spectra.nothing  # noqa: B018 - the access is the test


def test_importing_spectra_imports_nothing_heavy() -> None:
    heavy = "('torch', 'pandas', 'matplotlib', 'peft')"
    code = f"import sys, spectra, spectra.cli; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_a_run_whose_newest_snapshot_is_half_written_is_described(run: spectra.Run) -> None:
    file = run.directory.snapshots[-1].path / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert "lora, 6 modules" in repr(run)
