"""``spectra methods``: a table, one method, and JSON."""

import json

from tests.commands.conftest import Call


def test_methods(call: Call) -> None:
    code, out, _ = call("methods")
    assert code == 0
    for name in ("full", "lora", "rank1", "dora", "pissa", "rslora"):
        assert name in out
    code, out, _ = call("methods", "dora")
    assert "update: m / ‖W_0 + s·B·A‖_row" in out and "2402.09353" in out
    assert "target_modules = q_proj k_proj" in out and "moves base: no" in out
    assert not set("[]{}'") & set(call("methods", "adalora")[1])  # text for people, no Python literals
    assert {row["name"] for row in json.loads(call("methods", "--json")[1])} >= {"full", "lora", "pissa"}
