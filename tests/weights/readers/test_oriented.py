"""ΔW of weights that are not stored as O × I matrices: GPT-2's transposed ones, and convolutions."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spectra.errors import UnsupportedMethodError
from spectra.runs.directory import RunDirectory, Snapshot
from spectra.weights.initialization.find import find_initial_offset
from spectra.weights.initialization.kinds import AdapterOffset, ResidualOffset
from spectra.weights.storage.tensors import TensorStore
from tests import oracles
from tests.builders import lora_config, open_adapter, small_base, small_factors, write_adapter, write_model
from tests.weights.conftest import make_adapter, train_like
from tests.weights.peft_merges import EXACT, SINGLE, check, merged_differences, moving, updates_of

# peft's advice on embeddings, projections and biases.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft.*")


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("gpt2")
    config = GPT2Config(vocab_size=40, n_positions=16, n_embd=24, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(directory)
    return directory


# Configuration class and settings: every method that adapts GPT-2's Conv1D, whose weights are stored I × O.
FLIPPED: dict[str, tuple[str, dict[str, Any], float]] = {
    "lora": ("LoraConfig", {"r": 4}, EXACT),
    "dora": ("LoraConfig", {"r": 4, "use_dora": True}, EXACT),
    "bias of B": ("LoraConfig", {"r": 4, "lora_bias": True}, EXACT),
    "embedding": ("LoraConfig", {"r": 4, "target_modules": ["c_attn", "wte"]}, EXACT),
    "adalora": ("AdaLoraConfig", {"init_r": 4, "target_r": 2, "total_step": 10}, EXACT),
    "vera": ("VeraConfig", {"r": 4}, EXACT),
    "vera, drawn again": ("VeraConfig", {"r": 4, "save_projection": False}, EXACT),
    "pvera": ("PveraConfig", {"r": 4, "save_projection": False}, EXACT),
    "randlora": ("RandLoraConfig", {"r": 8, "save_projection": False}, EXACT),
    "vblora": ("VBLoRAConfig", {"r": 2, "num_vectors": 10, "vector_length": 8}, EXACT),
    "unilora": ("UniLoraConfig", {"r": 2}, EXACT),
    "gralora": ("GraloraConfig", {"r": 4}, EXACT),
    "fourierft": ("FourierFTConfig", {"n_frequency": 9, "random_loc_seed": 3}, SINGLE),
    "waveft": ("WaveFTConfig", {"n_frequency": 9, "wavelet_family": "db4"}, EXACT),
}


@pytest.mark.parametrize("name", FLIPPED)
def test_weights_that_are_stored_transposed(gpt2: Path, tmp_path: Path, name: str) -> None:
    import peft

    kind, settings, tolerance = FLIPPED[name]
    known = {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True, "task_type": "CAUSAL_LM"}
    end, _ = make_adapter(gpt2, tmp_path, getattr(peft, kind)(**{**known, **settings}), size=1e-2)
    updates, store = updates_of(end, gpt2)
    assert updates.skipped == {}
    assert updates.matrices["transformer.h.0.attn.c_attn"](
        store["transformer.h.0.attn.c_attn.weight"].double()
    ).shape == (72, 24)
    check(updates, store, merged_differences(gpt2, end), tolerance)


def test_a_start_that_moves_transposed_weights(gpt2: Path, tmp_path: Path) -> None:
    known = {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True, "use_dora": True}
    end, start = make_adapter(gpt2, tmp_path, moving("pissa", known), size=1e-2)
    updates, store = updates_of(end, gpt2, start)
    oracle = oracles.merged_minus_base_float64(gpt2, end, start)
    assert updates.method == "dora-pissa"
    check(updates, store, {f"{name}.weight": torch.from_numpy(at) for name, at in oracle.items()}, 1e-11)


def test_what_the_adapter_says_of_its_last_module_is_not_taken_for_all(gpt2: Path, tmp_path: Path) -> None:
    from peft import LoraConfig

    settings: dict[str, Any] = {"target_modules": ["c_attn", "c_proj", "lm_head"], "modules_to_save": ["c_fc"]}
    end, _ = make_adapter(gpt2, tmp_path, LoraConfig(r=4, task_type="CAUSAL_LM", **settings), size=1e-2)
    assert json.loads((end / "adapter_config.json").read_text())["fan_in_fan_out"] is False
    updates, store = updates_of(end, gpt2)
    assert {"transformer.h.1.attn.c_proj", "transformer.h.0.mlp.c_fc", "lm_head"} <= set(updates.matrices)
    merged = merged_differences(gpt2, end)
    merged["transformer.wte.weight"] = merged.pop("lm_head.weight")  # tied: in the file it is one matrix
    del updates.matrices["lm_head"], merged["transformer.wte.weight"]  # type: ignore[attr-defined]
    check(updates, store, merged, EXACT)


def test_a_residual_base_that_is_stored_transposed(gpt2: Path, tmp_path: Path) -> None:
    settings = {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}
    end, start = make_adapter(gpt2, tmp_path, moving("pissa", settings), size=1e-2)
    store = TensorStore.open_model(gpt2)
    exact = AdapterOffset("saved before training", open_adapter(start))
    tensors = dict(store.as_stored().items())
    for name in store.transposed:
        if "c_fc" not in name:
            module = name.removesuffix(".weight")
            weight = store[name].double()
            tensors[name] = (weight - exact.removed(module, weight).dense()).T
    run = RunDirectory(end, "adapter", (Snapshot(1, end, "adapter"),))
    found = find_initial_offset(run.snapshots[0], run, store, write_model(tmp_path / "residual", tensors))
    assert isinstance(found, ResidualOffset)
    for module in ("transformer.h.0.attn.c_attn", "transformer.h.1.attn.c_proj"):
        weight = store[f"{module}.weight"].double()
        torch.testing.assert_close(found.removed(module, weight).dense(), exact.removed(module, weight).dense())


def test_fan_in_fan_out_on_a_base_that_does_not_show_it_is_refused(tmp_path: Path) -> None:
    base = small_base(tmp_path / "base")
    adapter = write_adapter(tmp_path / "a", lora_config(str(base), fan_in_fan_out=True), small_factors())
    with pytest.raises(UnsupportedMethodError, match="sets fan_in_fan_out, and nothing in the base's files"):
        updates_of(adapter, base)


class Convolutions(nn.Module):
    """Stand-in for the convolutions that state-space models have beside their matrices."""

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.config = {"model_type": "custom"}
        self.line = nn.Conv1d(8, 12, 3, groups=groups)
        self.plane = nn.Conv2d(8, 12, (3, 2))
        self.point = nn.Conv2d(8, 12, 1)


def save_convolutions(out: Path, config: Any, model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Save base and adapter; return the tensors of the base, and of the merge in float64."""
    from peft import get_peft_model

    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    write_model(out / "base", base)
    adapted = get_peft_model(model, config)
    train_like(adapted, 1e-2)
    adapted.save_pretrained(out / "end")
    return base, adapted.double().merge_and_unload().state_dict()


CONVOLUTIONS: dict[str, tuple[str, dict[str, Any], float]] = {
    "lora": ("LoraConfig", {"r": 4, "lora_alpha": 6}, EXACT),
    "dora": ("LoraConfig", {"r": 4, "use_dora": True}, EXACT),
    "lora, bias of B": ("LoraConfig", {"r": 4, "lora_bias": True}, EXACT),
    "adalora": (
        "AdaLoraConfig",
        {"init_r": 4, "target_r": 2, "total_step": 10, "target_modules": ["plane", "point"]},
        EXACT,
    ),
    "loha": ("LoHaConfig", {"r": 2, "alpha": 1}, EXACT),
    "loha, effective": ("LoHaConfig", {"r": 2, "alpha": 1, "use_effective_conv2d": True}, EXACT),
    "lokr": ("LoKrConfig", {"r": 1, "alpha": 3, "decompose_both": True}, EXACT),
    "lokr, whole": ("LoKrConfig", {"r": 8, "alpha": 4}, EXACT),
    # torch 2.13 cannot view what peft makes of a Tucker core for a kernel of one dimension.
    "lokr, effective": (
        "LoKrConfig",
        {"r": 1, "alpha": 3, "use_effective_conv2d": True, "target_modules": ["plane", "point"]},
        EXACT,
    ),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_are_matrices_of_flattened_kernels(tmp_path: Path, name: str) -> None:
    import peft

    kind, settings, tolerance = CONVOLUTIONS[name]
    torch.manual_seed(0)
    config = getattr(peft, kind)(**{"target_modules": ["line", "plane", "point"], **settings})
    base, merged = save_convolutions(tmp_path, config, Convolutions())
    updates, store = updates_of(tmp_path / "end", tmp_path / "base")
    differences = {key: merged[key] - tensor.double() for key, tensor in base.items()}
    assert len(updates.matrices) == len(config.target_modules)
    check(updates, store, {key: at for key, at in differences.items() if float(at.abs().max()) > 0}, tolerance)


def test_a_grouped_convolution_is_refused(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model = Convolutions(groups=2)
    write_model(tmp_path / "base", model.state_dict())
    get_peft_model(model, LoraConfig(r=4, target_modules=["line"])).save_pretrained(tmp_path / "end")
    updates, store = updates_of(tmp_path / "end", tmp_path / "base")
    with pytest.raises(UnsupportedMethodError, match="a grouped convolution"):
        updates.matrices["line"](store["line.weight"].double())
