"""An exported adapter, loaded by peft on the original base, is the model that was trained."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from spectra.commands.export import export, export_model
from spectra.errors import BaseModelError, RunExistsError, UnsupportedMethodError, UsageError
from spectra.runs.layout import MODEL_UPDATE, MODEL_WEIGHTS
from spectra.weights.export.lora import Truncation
from spectra.weights.storage.bit_differences import write_difference
from spectra.weights.storage.tensors import TensorStore
from tests import oracles
from tests.builders import TARGETS, randn
from tests.weights.conftest import make_adapter, write_llama

TOKENS = torch.arange(12).reshape(2, 6)
CASES: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "pissa": {"init_lora_weights": "pissa_niter_4"},
    "dora": {"use_dora": True},
    "patterns": {"rank_pattern": {"q_proj": 3}, "alpha_pattern": {"v_proj": 1}},
}


def make_run(base: Path, out: Path, **settings: Any) -> Path:
    from peft import LoraConfig

    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": TARGETS, "task_type": "CAUSAL_LM", **settings})
    end, start = make_adapter(base, out / "made", config, size=2e-2)
    shutil.copytree(start, out / "run" / "checkpoint-0")
    shutil.copytree(end, out / "run" / "checkpoint-5")
    return out / "run"


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(TOKENS).logits
        return found


def load(base: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)


def exported_logits(base: Path, adapter: Path) -> Tensor:
    from peft import PeftModel

    return logits(PeftModel.from_pretrained(load(base), str(adapter)).double())


def trained_logits(base: Path, run: Path, *, moved: bool) -> Tensor:
    """Return the logits of the base plus the oracle's ΔW."""
    delta = oracles.merged_minus_base_float64(base, run / "checkpoint-5", run / "checkpoint-0" if moved else None)
    model = load(base)
    with torch.no_grad():
        for module, change in delta.items():
            model.get_submodule(module).weight += torch.from_numpy(change)
    return logits(model)


@pytest.mark.parametrize("case", CASES)
def test_the_same_logits(llama: Path, tmp_path: Path, case: str) -> None:
    run = make_run(llama, tmp_path, **CASES[case])
    done = export(run, tmp_path / "out")
    expected = trained_logits(llama, run, moved=case == "pissa")
    assert float((expected - logits(load(llama))).abs().max()) > 1e-3
    torch.testing.assert_close(exported_logits(llama, tmp_path / "out"), expected, rtol=0, atol=1e-6)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["init_lora_weights"], config["use_dora"], config["use_rslora"]) == (True, False, False)
    assert config["lora_alpha"] == config["r"] and config["alpha_pattern"] == config["rank_pattern"]
    assert config["base_model_name_or_path"] == str(llama)
    ranks = {module.rank for module in done.modules.values()}
    full = {16, 32}  # k and v have 16 outputs, the other matrices 32 on their smaller side
    assert ranks == {"lora": {4}, "rslora": {4}, "pissa": {8}, "dora": full, "patterns": {3, 4}}[case]
    assert done.lost == 0.0 and len(done.modules) == 14
    assert done.step == 5 and f"{done.method}, step 5: 14 matrices of rank" in done.describe()


def test_step_zero_of_a_method_that_moves_the_base_changes_nothing(llama: Path, tmp_path: Path) -> None:
    run = make_run(llama, tmp_path, init_lora_weights="pissa_niter_4")
    done = export(run, tmp_path / "out", step=0)
    assert {module.rank for module in done.modules.values()} == {1}
    torch.testing.assert_close(exported_logits(llama, tmp_path / "out"), logits(load(llama)), rtol=0, atol=0)


@pytest.mark.parametrize("limit", [{"rank": 3}, {"energy": 0.9}])
def test_truncation_says_what_it_lost(llama: Path, tmp_path: Path, limit: dict[str, Any]) -> None:
    run = make_run(llama, tmp_path, use_dora=True)
    done = export(run, tmp_path / "out", **limit)
    stored = load_file(tmp_path / "out" / "adapter_model.safetensors")
    for module, delta in oracles.merged_minus_base_float64(llama, run / "checkpoint-5").items():
        exact = torch.from_numpy(delta)
        sigma = torch.linalg.svdvals(exact)
        b, a = (stored[f"base_model.model.{module}.lora_{part}.weight"].double() for part in "BA")
        one = done.modules[module]
        assert one.rank is not None and one.rank == b.shape[1]
        lost = float(((exact - b @ a).norm() / exact.norm()) ** 2)
        assert lost == pytest.approx(one.lost, abs=1e-9)
        best = float((sigma[one.rank :] ** 2).sum() / (sigma**2).sum())
        assert one.lost == pytest.approx(best, rel=1e-9)
        if "rank" in limit:
            assert one.rank == 3
        else:
            assert one.lost <= 0.1 < float((sigma[one.rank - 1 :] ** 2).sum() / (sigma**2).sum())
    assert 0 < done.lost < 1 and "cut off" in done.describe()


def test_a_full_checkpoint_with_norms_and_embedding(llama: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(llama, run / "checkpoint-5")
    file = run / "checkpoint-5" / "model.safetensors"
    old = load_file(file)
    save_file(
        {name: t + 1e-3 * randn(*t.shape, seed=k).float() for k, (name, t) in enumerate(sorted(old.items()))},
        file,
        {"format": "pt"},
    )
    done = export(run, tmp_path / "out", base=str(llama))
    whole = {module for module, one in done.modules.items() if one.rank is None}
    assert whole == {"model.embed_tokens", "model.norm"} | {
        f"model.layers.{layer}.{name}_layernorm" for layer in (0, 1) for name in ("input", "post_attention")
    }
    expected = logits(load(run / "checkpoint-5"))
    torch.testing.assert_close(exported_logits(llama, tmp_path / "out"), expected, rtol=0, atol=1e-6)


def test_a_tied_head_follows_its_embedding(tmp_path: Path) -> None:
    base = write_llama(tmp_path / "base", tie_word_embeddings=True)
    shutil.copytree(base, tmp_path / "new")
    file = tmp_path / "new" / "model.safetensors"
    old = load_file(file)
    assert "lm_head.weight" not in old
    save_file({name: t + 1e-3 * randn(*t.shape, seed=3).float() for name, t in old.items()}, file, {"format": "pt"})
    export(tmp_path / "new", tmp_path / "out", base=str(base))
    expected = logits(load(tmp_path / "new"))
    torch.testing.assert_close(exported_logits(base, tmp_path / "out"), expected, rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a tiny GPT-2, whose Conv1D stores I × O and whose attention has a square one."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("gpt2")
    config = GPT2Config(n_embd=8, n_head=2, n_layer=1, n_positions=8, vocab_size=16, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(directory)
    return directory


# What trains on it, and the ranks that the export has then.
CONV1D = ["c_attn", "c_proj", "c_fc"]
FLIPPED: dict[str, tuple[str, dict[str, Any], set[int | None]]] = {
    "lora": ("LoraConfig", {"r": 2, "target_modules": CONV1D}, {2}),
    "dora": ("LoraConfig", {"r": 2, "use_dora": True, "target_modules": CONV1D}, {8}),
    # The file then says of the head, which is wrapped last, that its weights are not stored I × O.
    "beside a linear layer": ("LoraConfig", {"r": 2, "target_modules": ["attn.c_proj", "lm_head"]}, {2}),
    "only a linear layer": ("LoraConfig", {"r": 2, "target_modules": ["lm_head"]}, {2}),
    "embedding": ("LoraConfig", {"r": 2, "target_modules": ["c_fc", "wpe"]}, {2, None}),
    "hira": ("HiraConfig", {"r": 2, "target_modules": CONV1D}, {4, 8}),
}


@pytest.mark.filterwarnings("ignore::UserWarning:peft.*")  # its advice on Conv1D, and on tied and saved embeddings
@pytest.mark.parametrize("case", FLIPPED)
def test_layers_that_are_stored_transposed(gpt2: Path, tmp_path: Path, case: str) -> None:
    import peft

    kind, settings, ranks = FLIPPED[case]
    config = getattr(peft, kind)(task_type="CAUSAL_LM", **settings)
    end, _ = make_adapter(gpt2, tmp_path / "made", config, size=2e-2)
    done = export(end, tmp_path / "out", base=str(gpt2))
    assert {one.rank for one in done.modules.values()} <= ranks
    written = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert written["fan_in_fan_out"] is (case != "only a linear layer")
    expected = exported_logits(gpt2, end)
    assert float((expected - logits(load(gpt2))).abs().max()) > 1e-4
    torch.testing.assert_close(exported_logits(gpt2, tmp_path / "out"), expected, rtol=0, atol=1e-6)
    if "lm_head" not in settings["target_modules"]:
        whole = export_model(end, tmp_path / "whole", base=str(gpt2))
        torch.testing.assert_close(logits(load(whole)), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("layout", ["checkpoint", "differences"])
def test_a_full_checkpoint_of_transposed_layers(gpt2: Path, tmp_path: Path, layout: str) -> None:
    new = {n: t + 1e-2 * randn(*t.shape, seed=len(n)).float() for n, t in load_file(gpt2 / MODEL_WEIGHTS).items()}
    checkpoint = tmp_path / "checkpoint-5"
    checkpoint.mkdir()
    shutil.copy(gpt2 / "config.json", checkpoint)
    if layout == "checkpoint":
        save_file(new, checkpoint / MODEL_WEIGHTS, {"format": "pt"})
    else:
        write_difference(checkpoint / MODEL_UPDATE, new, TensorStore.open_model(gpt2))
    out = export_model(checkpoint, tmp_path / "out", base=str(gpt2))
    found = load_file(out / MODEL_WEIGHTS)
    assert all(torch.equal(found[name], tensor) for name, tensor in new.items())


def test_a_base_beside_the_run_is_found_and_named(llama: Path, tmp_path: Path) -> None:
    run = make_run(llama, tmp_path)
    shutil.copytree(llama, tmp_path / "base")
    for file in run.glob("*/adapter_config.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": "base"}))
    export(run, tmp_path / "out")
    named = json.loads((tmp_path / "out" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert Path(named) == tmp_path / "base"


def test_what_cannot_be_exported(llama: Path, tmp_path: Path) -> None:
    run = make_run(llama, tmp_path)
    with pytest.raises(UsageError, match="cannot be combined"):
        export(run, tmp_path / "out", rank=2, energy=0.5)
    with pytest.raises(UsageError, match="--rank must be at least 1, got 0"):
        export(run, tmp_path / "out", rank=0)
    with pytest.raises(UsageError, match=r"--energy must be in \(0, 1\], got 1.5"):
        export(run, tmp_path / "out", energy=1.5)
    with pytest.raises(UsageError, match=r"no snapshot of step 3; steps: \[0, 5\]"):
        export(run, tmp_path / "out", step=3)
    assert not (tmp_path / "out").exists()
    with pytest.raises(RunExistsError, match="not empty"):
        export(run, run)
    with pytest.raises(BaseModelError, match="does not name the base model"):
        export(llama, tmp_path / "out")


def test_biases_are_refused(tmp_path: Path) -> None:
    base = write_llama(tmp_path / "base", attention_bias=True)
    shutil.copytree(base, tmp_path / "new")
    file = tmp_path / "new" / "model.safetensors"
    save_file({name: tensor + 1e-3 for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    with pytest.raises(UnsupportedMethodError, match=r"k_proj.bias changes, but a plain LoRA has no bias"):
        export(tmp_path / "new", tmp_path / "out", base=str(base))


def test_ranks_that_are_kept() -> None:
    sigma = torch.tensor([3.0, 2.0, 1.0, 0.0], dtype=torch.float64)
    shape = (4, 4)
    assert Truncation().keep(sigma, shape) == 3
    assert Truncation(rank=2).keep(sigma, shape) == 2
    assert [Truncation(energy=share).keep(sigma, shape) for share in (0.1, 9 / 14, 0.7, 1.0)] == [1, 1, 2, 3]
    assert Truncation().keep(torch.zeros(4, dtype=torch.float64), shape) == 1
