"""ΔW of LoRA on stacked experts, expert by expert, against peft's merge saved as a checkpoint."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from spectra.errors import CorruptFileError
from tests.builders import write_model
from tests.weights.conftest import make_adapter
from tests.weights.peft_merges import EXACT, change_config, check, load, lora, updates_of

# peft looks for a parameter's pattern among the modules only, and says that it found none.
pytestmark = pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern")

Q = "model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a mixture of three experts, stacked in memory and stored one by one."""
    from transformers import AutoModelForCausalLM, Qwen3MoeConfig

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_experts": 3, "num_experts_per_tok": 2}
    directory = tmp_path_factory.mktemp("mixture")
    config = Qwen3MoeConfig(vocab_size=40, num_hidden_layers=1, **sizes, **heads)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    return directory


EXPERTS: dict[str, tuple[dict[str, Any], int]] = {
    "both": ({"target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}, 9),
    "one": ({"target_parameters": ["down_proj"], "use_rslora": True}, 3),
    "patterns": (
        {
            "target_parameters": ["experts.gate_up_proj", "experts.down_proj"],
            "rank_pattern": {"experts.down_proj": 3},
            "alpha_pattern": {"gate_up_proj": 5},
        },
        9,
    ),
}


@pytest.mark.parametrize("name", EXPERTS)
def test_each_expert_of_a_stack_is_a_matrix_of_its_own(mixture: Path, tmp_path: Path, name: str) -> None:
    from peft import PeftModel

    settings, count = EXPERTS[name]
    end, _ = make_adapter(mixture, tmp_path, lora({"target_modules": ["q_proj"]} | settings), size=1e-2)
    PeftModel.from_pretrained(load(mixture), str(end)).double().merge_and_unload().save_pretrained(tmp_path / "merged")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    updates, store = updates_of(end, mixture)
    assert updates.skipped == {}
    assert len([module for module in updates.matrices if ".experts." in module]) == count
    differences = {key: merged[key] - store[key].double() for key in store}
    check(updates, store, {key: at for key, at in differences.items() if float(at.abs().max()) > 0}, EXACT)


def test_a_stack_that_the_base_stores_whole_is_skipped_with_the_reason(mixture: Path, tmp_path: Path) -> None:
    settings = {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.down_proj"]}
    end, _ = make_adapter(mixture, tmp_path, lora(settings))
    tensors = load_file(mixture / "model.safetensors")
    stacked = {name: tensor for name, tensor in tensors.items() if ".experts." not in name}
    experts = [tensors[f"model.layers.0.mlp.experts.{number}.down_proj.weight"] for number in range(3)]
    whole = write_model(tmp_path / "base", stacked | {"model.layers.0.mlp.experts.down_proj": torch.stack(experts)})
    updates, _ = updates_of(end, whole)
    assert set(updates.matrices) == {Q}
    assert "does not store expert by expert" in updates.skipped["model.layers.0.mlp.experts"]


def test_a_stack_of_another_rank_is_named(mixture: Path, tmp_path: Path) -> None:
    end, _ = make_adapter(mixture, tmp_path, lora({"target_modules": ["q_proj"], "target_parameters": ["down_proj"]}))
    change_config(end, r=5)
    with pytest.raises(CorruptFileError, match="has rank 5 for 3 experts, the tensors have 12"):
        updates_of(end, mixture)
