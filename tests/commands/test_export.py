"""``spectra export``: its output for machines, and silence."""

import json
from pathlib import Path

from tests.builders import own_run
from tests.commands.conftest import Call


def test_export_for_machines_and_in_silence(tmp_path: Path, base: Path, call: Call) -> None:
    run = own_run(tmp_path / "run", base)
    code, out, err = call("export", run, tmp_path / "adapter", "--json")
    found = json.loads(out)
    assert (code, err, found["path"], found["step"], found["lost"]) == (0, "", str(tmp_path / "adapter"), 4, 0)
    assert all(module["rank"] >= 1 for module in found["modules"].values())
    assert call("export", run, tmp_path / "silent", "--quiet") == (0, "", "")
    assert (tmp_path / "silent" / "adapter_config.json").exists()
    assert json.loads(call("export", run, tmp_path / "model", "--model", "--json")[1]) == {
        "path": str(tmp_path / "model")
    }
