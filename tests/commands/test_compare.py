"""``spectra compare``: what it prints and writes, and what it refuses."""

import json
from pathlib import Path

from tests.builders import own_run
from tests.commands.conftest import Call


def test_compare(tmp_path: Path, base: Path, call: Call) -> None:
    a, b = own_run(tmp_path / "runs" / "a", base), own_run(tmp_path / "runs" / "b", base, steps=(0, 3), method="dora")
    code, out, _ = call("compare", a, b)
    assert code == 0
    assert "lora" in out and "dora" in out and "healthy" in out
    assert f"report: {tmp_path / 'runs' / 'comparison' / 'report.html'}" in out
    assert (tmp_path / "runs" / "comparison" / "comparison.parquet").exists()
    code, out, _ = call("compare", a, b, "--json", "--out", tmp_path / "other")
    assert [row["run"] for row in json.loads(out)] == ["a", "b"]
    code, _, err = call("compare", a)
    assert code == 2 and "needs at least two runs" in err
    code, _, err = call("compare", a, a)
    assert code == 2 and "given twice" in err
