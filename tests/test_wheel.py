"""The wheel holds all that an installed spectra reads: styles, templates, catalogs, the embedded base."""

import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).parents[1]


def test_an_installed_wheel_analyzes_and_draws_away_from_its_source(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    subprocess.run(build, check=True, cwd=ROOT, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    installed = tmp_path / "installed"
    with ZipFile(wheel) as archive:
        archive.extractall(installed)
    data = {path.relative_to(ROOT) for path in (ROOT / "spectra").rglob("*") if _is_data(path)}
    assert {path for path in data if not (installed / path).exists()} == set()
    smoke = subprocess.run(
        [sys.executable, ROOT / ".github" / "smoke.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert smoke.returncode == 0, smoke.stderr
    assert f"works as installed in {installed / 'spectra'}" in smoke.stdout


def _is_data(path: Path) -> bool:
    return path.is_file() and path.suffix not in (".py", ".pyc")
