"""Tables, bases and updates of a model that stores its matrices I × O, in O × I against the dense float64 oracle."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import spectra
from spectra.analysis.analyze import Analysis, Options, analyze
from spectra.analysis.doctor.examine import examine
from spectra.analysis.pipeline.basis_cache import BasisCache
from spectra.analysis.verdict.findings import Check
from spectra.errors import BaseModelError
from spectra.runs.layout import RunLayout
from spectra.runs.manifest import BaseIdentity, Manifest, now
from spectra.weights.storage.base import fingerprint
from spectra.weights.storage.tensors import TensorStore, digest
from tests import oracles
from tests.weights.conftest import change_file, make_adapter

# peft notes that GPT-2's modules are Conv1D.
pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to")

TARGETS = ["c_attn", "c_proj", "c_fc"]
SHAPES = {"attn.c_attn": (72, 24), "attn.c_proj": (24, 24), "mlp.c_fc": (96, 24), "mlp.c_proj": (24, 96)}
# What peft trains; "full" is a whole checkpoint beside the base, which no adapter's configuration describes.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("LoraConfig", {"r": 3, "target_modules": [*TARGETS, "wte"]}),
    "dora": ("LoraConfig", {"r": 3, "use_dora": True, "target_modules": TARGETS}),
    "ia3": ("IA3Config", {"target_modules": TARGETS, "feedforward_modules": ["c_fc"]}),
    "full": ("", {}),
}


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("gpt2")
    config = GPT2Config(vocab_size=40, n_positions=16, n_embd=24, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(directory)
    return directory


def trained(gpt2: Path, out: Path, case: str) -> Path:
    """Return a trained adapter, or a whole checkpoint in which every number moved."""
    import peft

    kind, settings = CASES[case]
    if kind:
        return make_adapter(gpt2, out, getattr(peft, kind)(task_type="CAUSAL_LM", **settings), size=1e-2)[0]
    shutil.copytree(gpt2, out / "full")
    generator = torch.Generator().manual_seed(5)
    change_file(
        out / "full" / "model.safetensors",
        lambda tensors: {k: t + 1e-2 * torch.randn(t.shape, generator=generator) for k, t in tensors.items()},
    )
    return out / "full"


def dense(gpt2: Path, end: Path, case: str) -> dict[str, np.ndarray[Any, Any]]:
    """Return ΔW of every matrix in float64 as the model's code has it."""
    if case != "full":
        return oracles.merged_minus_base_float64(gpt2, end)
    new, old = oracles.base_weights_float64(end), oracles.base_weights_float64(gpt2)
    return {name: new[name] - old[name] for name in old if old[name].ndim == 2 and name != "lm_head"}


def straight(module: str, stored: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return a matrix as outputs × inputs: GPT-2's blocks hold Conv1D, its embeddings are used as they are."""
    return stored.T if ".h." in module else stored


def run_analysis(path: Path, base: Path, tmp_path: Path) -> Analysis:
    return analyze(path, Options(base=str(base), cache=tmp_path / "cache"))


def compare(row: Any, expected: dict[str, Any], what: str) -> None:
    for column, value in expected.items():
        if not isinstance(value, str):
            assert row[column] == pytest.approx(value, rel=1e-6, abs=1e-12, nan_ok=True), f"{what}: {column}"


@pytest.mark.parametrize("case", CASES)
def test_tables_are_those_of_outputs_by_inputs(gpt2: Path, tmp_path: Path, case: str) -> None:
    end = trained(gpt2, tmp_path, case)
    tables = run_analysis(end, gpt2, tmp_path).tables
    weights, deltas = oracles.base_weights_float64(gpt2), dense(gpt2, end, case)
    rows = tables.modules.set_index("module")
    matrices = rows[rows["in_features"].notna()]
    assert set(matrices.index) == set(deltas) >= {f"transformer.h.0.{name}" for name in SHAPES}
    for module, stored in deltas.items():
        delta, weight = straight(module, stored), straight(module, weights[module])
        row = rows.loc[module]
        assert (row["out_features"], row["in_features"]) == SHAPES.get(module[14:], weight.shape) == weight.shape
        expected = oracles.modules_row(delta, weight)
        expected.pop("numerical_rank")
        compare(row, expected, module)
        by = ["side", "subspace", "fraction"]
        found = tables.projection[tables.projection["module"] == module].set_index(by, drop=False)
        for line in oracles.projection_rows(delta, weight):
            compare(found.loc[tuple(line[key] for key in by)], line, module)
        by = ["side", "bin"]
        found = tables.profile[tables.profile["module"] == module].set_index(by, drop=False)
        for line in oracles.profile_rows(delta, weight):
            compare(found.loc[tuple(line[key] for key in by)], line, module)


def test_notebooks_see_outputs_by_inputs(gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECTRA_CACHE", str(tmp_path / "cache"))
    end = trained(gpt2, tmp_path, "lora")
    run = spectra.open(end, str(gpt2))
    raw = TensorStore.open_model(gpt2).as_stored()
    for name, shape in SHAPES.items():
        module = f"transformer.h.0.{name}"
        stored = raw[f"{module}.weight"]
        # What a release that kept the stored orientation has put into the cache.
        BasisCache(tmp_path / "cache" / "bases").get(digest(stored), stored.double())
        weight, basis = run.weight(module), run.basis(module)
        assert torch.equal(weight, stored.double().T)
        assert run.update(module).shape == tuple(weight.shape) == shape
        torch.testing.assert_close(basis.left @ torch.diag(basis.sigma) @ basis.right.T, weight)
        left = torch.linalg.svd(stored.double().T, full_matrices=False).U
        torch.testing.assert_close((left * basis.left).sum(0).abs(), torch.ones(min(shape), dtype=torch.float64))
    assert torch.equal(run.weight("transformer.wte"), raw["transformer.wte.weight"].double())
    assert run.update("transformer.wte").shape == (40, 24)


def own_run(gpt2: Path, end: Path, directory: Path) -> Path:
    """Write a run of ours whose manifest has the digests of the base, taken from the tensors as they are stored."""
    layout = RunLayout(directory)
    identity = BaseIdentity(str(gpt2), None, fingerprint(gpt2))
    Manifest(now(), {"torch": "x"}, None, identity, "lora", "grpo", 0, {"cores": 1}, {"x": [1]}).write(layout.manifest)
    shutil.copytree(end, layout.snapshot(4))
    return directory


def test_the_base_is_known_by_its_tensors_as_stored(gpt2: Path, tmp_path: Path) -> None:
    run = own_run(gpt2, trained(gpt2, tmp_path, "lora"), tmp_path / "run")
    raw = TensorStore.open_model(gpt2).as_stored()
    assert fingerprint(gpt2) == {name: digest(raw[name]) for name in raw}
    assert len(run_analysis(run, gpt2, tmp_path).tables.modules) == 5
    (same,) = [check for check in examine(run, gpt2).checks if check.name == "base"]
    assert same.status == "ok"
    other = shutil.copytree(gpt2, tmp_path / "other")
    change_file(
        other / "model.safetensors", lambda tensors: {k: t * 2 if "c_attn" in k else t for k, t in tensors.items()}
    )
    with pytest.raises(BaseModelError, match="c_attn.weight is not the tensor that this run was trained on"):
        run_analysis(run, other, tmp_path)


@pytest.mark.parametrize("case", ["lora", "full"])
def test_the_doctor_finds_nothing_wrong(gpt2: Path, tmp_path: Path, case: str) -> None:
    end = trained(gpt2, tmp_path, case)
    diagnosis = examine(end, gpt2)
    assert diagnosis.faults == ()
    assert [check.status for check in diagnosis.checks if check.name == "targets"] == (["ok"] if case == "lora" else [])


def test_the_doctor_knows_a_merge_of_transposed_weights(gpt2: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    end = trained(gpt2, tmp_path, "dora")
    shutil.copytree(end, tmp_path / "run" / "checkpoint-4")
    merged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(gpt2), end).merge_and_unload()
    merged.save_pretrained(tmp_path / "run" / "merged")
    checks = [check for check in examine(tmp_path / "run", gpt2).checks if "merged is the base plus" in says(check)]
    assert [check.status for check in checks] == ["ok"]


def says(check: Check) -> str:
    return str(check.evidence.says)
