"""An exported adapter, loaded by peft on the original base, is the model that was trained."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from spectra.commands.export import export
from spectra.errors import BaseModelError, RunExistsError, UnsupportedMethodError, UsageError
from spectra.weights.export import Truncation
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


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to")
def test_layers_that_are_stored_transposed(tmp_path: Path) -> None:
    from peft import LoraConfig
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    base = tmp_path / "base"
    GPT2LMHeadModel(GPT2Config(n_embd=8, n_head=2, n_layer=1, n_positions=8, vocab_size=16)).save_pretrained(base)
    config = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM")
    end, _ = make_adapter(base, tmp_path / "made", config, size=2e-2)
    done = export(end, tmp_path / "out", base=str(base))
    assert [one.rank for one in done.modules.values()] == [2]
    found, expected = exported_logits(base, tmp_path / "out"), exported_logits(base, end)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_what_cannot_be_exported(llama: Path, tmp_path: Path) -> None:
    run = make_run(llama, tmp_path)
    with pytest.raises(UsageError, match="exclude each other"):
        export(run, tmp_path / "out", rank=2, energy=0.5)
    with pytest.raises(UsageError, match="--rank 0"):
        export(run, tmp_path / "out", rank=0)
    with pytest.raises(UsageError, match="--energy 1.5"):
        export(run, tmp_path / "out", energy=1.5)
    with pytest.raises(UsageError, match=r"no snapshot of step 3; steps: \[0, 5\]"):
        export(run, tmp_path / "out", step=3)
    assert not (tmp_path / "out").exists()
    with pytest.raises(RunExistsError, match="not empty"):
        export(run, run)
    with pytest.raises(BaseModelError, match="does not say which base"):
        export(llama, tmp_path / "out")


def test_biases_are_refused(tmp_path: Path) -> None:
    base = write_llama(tmp_path / "base", attention_bias=True)
    shutil.copytree(base, tmp_path / "new")
    file = tmp_path / "new" / "model.safetensors"
    save_file({name: tensor + 1e-3 for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    with pytest.raises(UnsupportedMethodError, match=r"k_proj.bias changes, and a plain LoRA holds no bias"):
        export(tmp_path / "new", tmp_path / "out", base=str(base))


def test_ranks_that_are_kept() -> None:
    sigma = torch.tensor([3.0, 2.0, 1.0, 0.0], dtype=torch.float64)
    shape = (4, 4)
    assert Truncation().keep(sigma, shape) == 3
    assert Truncation(rank=2).keep(sigma, shape) == 2
    assert [Truncation(energy=share).keep(sigma, shape) for share in (0.1, 9 / 14, 0.7, 1.0)] == [1, 1, 2, 3]
    assert Truncation().keep(torch.zeros(4, dtype=torch.float64), shape) == 1
