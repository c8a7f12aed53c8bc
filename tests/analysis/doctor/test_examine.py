"""Healthy runs of every kind have no fault, and one fault does not hide another."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from spectra.analysis.doctor import bookkeeping, examine
from spectra.errors import RunNotFoundError
from spectra.weights.opened_run import OpenedRun
from tests.analysis.doctor.faulty_runs import base_with_config, edit_config, faults, healthy_adapter
from tests.builders import matrix, own_run, randn, small_base, trainer_run, write_model


@pytest.mark.parametrize("kind", ["own", "trainer", "adapter", "full"])
def test_a_healthy_directory_has_no_fault(kind: str, tmp_path: Path) -> None:
    base = base_with_config(tmp_path / "base", hidden_size=24, model_type="llama")
    run = tmp_path / "run"
    if kind == "own":
        own_run(run, base)
    elif kind == "trainer":
        trainer_run(run, base)
    elif kind == "adapter":
        healthy_adapter(run, base)
    else:
        from tests.analysis.doctor.faulty_runs import base_tensors

        tensors = {name: tensor + 1e-3 * randn(*tensor.shape).float() for name, tensor in base_tensors(base).items()}
        write_model(run, tensors)
    diagnosis = examine(run, base)
    assert faults(diagnosis) == []
    assert (diagnosis.exit_code, diagnosis.verdict) == (0, None)
    assert any(check.status == "ok" for check in diagnosis.checks)


def test_every_fault_is_found_at_once(tmp_path: Path) -> None:
    base = small_base(tmp_path / "base")
    run = own_run(tmp_path / "run", base)
    (run / "recipe.yaml").write_text("method: {name: dora, r: 4, alpha: 8}\n")
    edit_config(run / "snapshots" / "step_000004", r=8)
    (run / "snapshots" / "step_000002" / "adapter_model.safetensors").write_bytes(b"torn")
    other = write_model(tmp_path / "other", {"model.layers.0.self_attn.q_proj.weight": matrix(24, 24).float()})
    assert {"files", "label", "method", "base"} <= set(faults(examine(run, other)))


def test_a_run_that_cannot_be_opened_is_examined_all_the_same(tmp_path: Path) -> None:
    base = small_base(tmp_path / "base")
    adapter = healthy_adapter(tmp_path / "adapter", base, r=2)
    edit_config(adapter, lora_alpha=0, use_dora=True)
    found = examine(adapter, base)
    assert {"files", "label"} <= set(faults(found))
    assert any("magnitude" in check.evidence.says for check in found.faults)
    assert found.recognized == "not recognized"


def test_lines_and_json_say_the_same(tmp_path: Path) -> None:
    base = small_base(tmp_path / "base")
    diagnosis = examine(healthy_adapter(tmp_path / "a", base, use_dora=True), base)
    lines, value = list(diagnosis.lines()), diagnosis.as_json()
    assert lines[0].startswith(str(tmp_path / "a"))
    assert lines[1].startswith("fault   label: says use_dora")
    assert lines[1].endswith("restore the adapter_config.json that belongs to these tensors")
    assert lines[-1].startswith("1 fault in ")
    assert json.loads(json.dumps(value, allow_nan=False))["faults"] == 1
    assert len(lines) == len(value["checks"]) + 2


def test_bookkeeping_is_the_same_examination(tmp_path: Path) -> None:
    run = own_run(tmp_path / "run", small_base(tmp_path / "base"))
    assert bookkeeping(OpenedRun.open(run, str(tmp_path / "base"))) == list(examine(run, tmp_path / "base").checks)


def test_no_such_directory(tmp_path: Path) -> None:
    with pytest.raises(RunNotFoundError, match="no such directory"):
        examine(tmp_path / "nowhere")


def test_the_doctor_needs_no_training_library(tmp_path: Path) -> None:
    run = own_run(tmp_path / "run", small_base(tmp_path / "base"))
    program = (
        "import sys\n"
        "for name in ('peft', 'trl', 'transformers', 'accelerate', 'datasets'): sys.modules[name] = None\n"
        "from pathlib import Path\n"
        "from spectra.analysis.doctor import examine\n"
        f"assert examine(Path({str(run)!r})).exit_code == 0\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[3])


def test_odd_values_elsewhere_are_a_fault_and_no_traceback(tmp_path: Path) -> None:
    base = small_base(tmp_path / "base")
    adapter = healthy_adapter(tmp_path / "a", base)
    edit_config(adapter, use_qalora=True, qalora_group_size="x")
    found = examine(adapter, base)
    assert any("configuration cannot be read (ValueError" in check.evidence.says for check in found.faults)
    assert found.verdict is None
