"""``spectra cache``: what it counts, and clearing it."""

from pathlib import Path

from tests.builders import own_run
from tests.commands.conftest import Call


def test_cache(tmp_path: Path, base: Path, call: Call) -> None:
    assert "0 matrices" in call("cache")[1]
    call("analyze", own_run(tmp_path / "run", base), "--deep", "none")
    assert f"{tmp_path / 'cache' / 'bases'}: 6 matrices" in call("cache")[1]
    assert "0 matrices, 0.0 MB" in call("cache", "--clear")[1]
