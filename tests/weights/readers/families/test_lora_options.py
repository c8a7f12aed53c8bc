"""ΔW under every option of peft's LoRA, against peft's merge in float64 minus the original base."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from spectra.errors import CorruptFileError, MissingInitialError, SpectraError, UnsupportedMethodError
from tests import oracles
from tests.builders import lora_config, small_base, small_factors, write_adapter, write_model
from tests.weights.conftest import make_adapter, train_like, write_llama
from tests.weights.peft_merges import EXACT, change_config, check, load, lora, merged_differences, moving, updates_of

# peft's advice on embeddings, starts and biases, and torch's on the hooks that LoRA-GA sets.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft.*", "ignore:Full backward hook")

Q = "model.layers.0.self_attn.q_proj"
EMBEDDING = {"target_modules": ["q_proj", "embed_tokens"]}
BLOCKS = {"target_modules_bd_b": ["q_proj", "up_proj"], "target_modules_bd_a": ["o_proj"], "nblocks": 2}

# Settings, tolerance and the method's name. The base has biases everywhere.
PLAIN: dict[str, tuple[dict[str, Any], float, str]] = {
    "gaussian": ({"init_lora_weights": "gaussian"}, EXACT, "lora"),
    "random": ({"init_lora_weights": False}, EXACT, "lora"),
    "orthogonal": ({"init_lora_weights": "orthogonal"}, EXACT, "lora"),
    "mica": ({"init_lora_weights": "mica"}, EXACT, "mica"),
    "biases, all": ({"bias": "all"}, EXACT, "lora"),
    "biases, of adapted modules": ({"bias": "lora_only", "target_modules": ["q_proj"]}, EXACT, "lora"),
    "bias of B": ({"lora_bias": True, "use_rslora": True}, EXACT, "rslora"),
    "dora": ({"use_dora": True, "use_rslora": True}, EXACT, "dora-rslora"),
    "embedding": (EMBEDDING, EXACT, "lora"),
    "embedding, dora": (EMBEDDING | {"use_dora": True}, EXACT, "dora"),
    "embedding, mica": (EMBEDDING | {"init_lora_weights": "mica"}, EXACT, "mica"),
    "tokens": ({"trainable_token_indices": [3, 7]}, EXACT, "lora"),
    "tokens by name": ({"trainable_token_indices": {"embed_tokens": [3], "lm_head": [0, 5]}}, EXACT, "lora"),
    "modules to save": ({"target_modules": ["q_proj"], "modules_to_save": ["norm", "embed_tokens"]}, EXACT, "lora"),
    "velora": ({"velora_config": {"num_groups": 4}}, EXACT, "velora"),
    "monteclora": ({"monteclora_config": {}}, EXACT, "monteclora"),
    "bdlora": ({"use_bdlora": BLOCKS, "target_modules": ["q_proj", "up_proj", "o_proj"]}, EXACT, "bdlora"),
    "bdlora, mixed": ({"use_bdlora": BLOCKS | {"match_strict": False}}, EXACT, "bdlora"),
    # peft truncates W by an SVD in float32, whose rounding of all of W is next to a small ΔW.
    "kasa": ({"kasa_config": {}}, 1e-5, "kasa"),
}


@pytest.fixture(scope="module")
def biased(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("biased"), attention_bias=True, mlp_bias=True)


@pytest.mark.parametrize("name", PLAIN)
def test_against_the_merge_in_float64(biased: Path, tmp_path: Path, name: str) -> None:
    settings, tolerance, method = PLAIN[name]
    end, _ = make_adapter(biased, tmp_path, lora(settings), size=1e-2)
    updates, store = updates_of(end, biased)
    assert updates.method == method
    assert updates.skipped == {}
    check(updates, store, merged_differences(biased, end), tolerance)


def test_eva_redistributes_ranks_and_scales(llama: Path, tmp_path: Path) -> None:
    from peft import EvaConfig, get_peft_model, initialize_lora_eva_weights

    model = get_peft_model(load(llama), lora({"init_lora_weights": "eva", "eva_config": EvaConfig(rho=2.0)}))
    tokens = torch.randint(0, 40, (8, 6), generator=torch.Generator().manual_seed(0))
    batches = [{"input_ids": part, "attention_mask": torch.ones_like(part)} for part in tokens.split(2)]
    initialize_lora_eva_weights(model, batches, show_progress_bar=False)
    train_like(model, 1e-2)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert len(set(config["rank_pattern"].values())) > 1
    updates, store = updates_of(tmp_path, llama)
    assert updates.method == "eva"
    check(updates, store, merged_differences(llama, tmp_path), EXACT)


def no_preparation(model: Any, config: Any) -> None:
    """Do what most starts need before training: nothing."""


def covariance(model: Any, config: Any) -> None:
    from peft.tuners.lora.corda import preprocess_corda

    tokens = torch.randint(0, 40, (1, 64), generator=torch.Generator().manual_seed(0))
    preprocess_corda(model, config, run_model=lambda: model(tokens))


def gradients(model: Any, config: Any) -> None:
    from peft.tuners.lora.loraga import preprocess_loraga

    tokens = torch.randint(0, 40, (2, 12), generator=torch.Generator().manual_seed(0))
    preprocess_loraga(model, config, train_step=lambda: model(tokens, labels=tokens).loss.backward())


MOVING: dict[str, tuple[str, dict[str, Any], Callable[[Any, Any], None]]] = {
    "pissa": ("pissa_niter_4", {}, no_preparation),
    "pissa-rslora": ("pissa", {"use_rslora": True, "rank_pattern": {"q_proj": 2}}, no_preparation),
    "olora": ("OLoRA", {}, no_preparation),
    "corda": ("corda", {}, covariance),
    "lora-ga": ("lora_ga", {}, gradients),
}


@pytest.mark.parametrize("name", MOVING)
def test_starts_that_move_the_base(llama: Path, tmp_path: Path, name: str) -> None:
    from peft import get_peft_model

    start, settings, prepare = MOVING[name]
    config, model = moving(start, settings), load(llama)
    prepare(model, config)
    torch.manual_seed(0)
    model = get_peft_model(model, config)
    model.save_pretrained(tmp_path / "start")
    train_like(model, 1e-2)
    model.save_pretrained(tmp_path / "end")
    updates, store = updates_of(tmp_path / "end", llama, tmp_path / "start")
    assert updates.method == name
    oracle = oracles.merged_minus_base_float64(llama, tmp_path / "end", tmp_path / "start")
    check(updates, store, {f"{name}.weight": torch.from_numpy(at) for name, at in oracle.items()}, 1e-11)
    with pytest.raises(MissingInitialError, match="needs the adapter of step 0"):
        updates_of(tmp_path / "end", llama)


def test_a_start_leaves_the_embedding_alone(llama: Path, tmp_path: Path) -> None:
    end, start = make_adapter(llama, tmp_path, moving("pissa", EMBEDDING), size=1e-2)
    updates, store = updates_of(end, llama, start)
    tensors = load_file(end / "adapter_model.safetensors")
    a, b = (tensors[f"base_model.model.model.embed_tokens.lora_embedding_{side}"].double() for side in "AB")
    delta = updates.matrices["model.embed_tokens"](store["model.embed_tokens.weight"].double())
    torch.testing.assert_close(delta.dense(), 1.5 * (b @ a).T)


def test_an_adapter_that_peft_converted_is_plain(llama: Path, tmp_path: Path) -> None:
    from peft import get_peft_model

    model = get_peft_model(load(llama), moving("pissa", {}))
    model.peft_config["default"].init_lora_weights = True  # as peft's guide says, so that it loads without moving
    model.save_pretrained(tmp_path / "start")
    model.peft_config["default"].init_lora_weights = "pissa"
    train_like(model, 1e-2)
    model.save_pretrained(tmp_path / "end")
    model.save_pretrained(tmp_path / "plain", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    plain, store = updates_of(tmp_path / "plain", llama)
    moved, _ = updates_of(tmp_path / "end", llama, tmp_path / "start")
    assert (plain.method, moved.method) == ("lora", "pissa")
    for module in moved.matrices:
        weight = store[f"{module}.weight"].double()
        torch.testing.assert_close(plain.matrices[module](weight).dense(), moved.matrices[module](weight).dense())


TIED: dict[str, tuple[dict[str, Any], set[str]]] = {
    "head to save": ({"modules_to_save": ["lm_head"]}, {"lm_head"}),
    "lora on the head": ({"target_modules": ["q_proj", "lm_head"]}, {"lm_head"}),
    "both to save": (
        {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
        {"lm_head", "model.embed_tokens"},
    ),
    "lora on both": (
        {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True},
        {"lm_head", "model.embed_tokens"},
    ),
    "tokens of both": ({"trainable_token_indices": [1, 2]}, {"model.embed_tokens"}),
    "tokens of each": (
        {"trainable_token_indices": {"embed_tokens": [1, 2], "lm_head": [3]}},
        {"lm_head", "model.embed_tokens"},
    ),
}


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("tied"), tie_word_embeddings=True)


@pytest.mark.parametrize("name", TIED)
def test_a_tied_head_is_measured_against_the_embedding(tied: Path, tmp_path: Path, name: str) -> None:
    """Compared with what the model computes: a merge into tied weights would change both ends."""
    settings, modules = TIED[name]
    end, _ = make_adapter(tied, tmp_path, lora({"target_modules": ["q_proj"]} | settings), size=1e-2)
    updates, store = updates_of(end, tied)
    assert updates.skipped == {}
    assert {module for module in updates.matrices if "layers" not in module} == modules
    embedding = store["model.embed_tokens.weight"].double()
    adapted = with_adapter(tied, end)
    for module in modules:
        found = updates.matrices[module](embedding).dense()
        torch.testing.assert_close(found, effective(adapted, module) - embedding, rtol=0, atol=1e-12)
        assert float(found.abs().max()) > 1e-4


def with_adapter(base: Path, adapter: Path) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(load(base), str(adapter)).double().eval().get_base_model()


def effective(model: Any, module: str) -> Tensor:
    """Return the matrix that an embedding or a head without bias applies, from its outputs."""
    with torch.no_grad():
        if module == "lm_head":
            weight: Tensor = model.lm_head(torch.eye(32, dtype=torch.float64)).T
        else:
            weight = model.get_input_embeddings()(torch.arange(40))
    return weight


def test_qalora_is_what_its_forward_pass_computes(tmp_path: Path) -> None:
    """peft has it for GPTQ only, and no merge: the layer's own forward pass is the reference."""
    from peft.tuners.lora.layer import Linear
    from peft.tuners.lora.variants import QALoraLinearVariant

    torch.manual_seed(0)
    config = lora({"use_qalora": True, "qalora_group_size": 4})
    layer = Linear(nn.Linear(24, 10, bias=False), "default", lora({}), r=4, lora_alpha=6)
    QALoraLinearVariant.init(layer, "default", config)
    nn.init.normal_(layer.lora_B["default"].weight)
    a, b = (getattr(layer, f"lora_{side}")["default"].weight.detach() for side in "AB")
    base = write_model(tmp_path / "base", {"proj.weight": layer.base_layer.weight.detach()})
    settings = {"use_qalora": True, "qalora_group_size": 4}
    end = write_adapter(tmp_path / "end", lora_config("b", r=4, alpha=6, **settings), {"proj": (b, a)})
    updates, store = updates_of(end, base)
    found = updates.matrices["proj"](store["proj.weight"].double())
    outputs = QALoraLinearVariant.forward(
        layer.double(), "default", torch.eye(24, dtype=torch.float64), torch.zeros(24, 10, dtype=torch.float64)
    )
    torch.testing.assert_close(found.dense(), outputs.detach().T)
    assert (updates.method, found.rank_bound) == ("qalora", 4)


REFUSED: dict[str, tuple[dict[str, Any], type[SpectraError], str]] = {
    "alora": ({"alora_invocation_tokens": [1, 2]}, UnsupportedMethodError, "after the invocation alone"),
    "arrow": ({"arrow_config": {"top_k": 2}}, UnsupportedMethodError, "mixes adapters anew for each token"),
    "layer replication": ({"layer_replication": [[0, 2], [1, 2]]}, UnsupportedMethodError, "share one base matrix"),
    "unknown start": ({"init_lora_weights": "milora"}, UnsupportedMethodError, "'milora' is not known"),
    "loftq": ({"init_lora_weights": "loftq"}, MissingInitialError, "needs the adapter of step 0"),
    "corda": ({"init_lora_weights": "corda"}, MissingInitialError, "needs the adapter of step 0"),
    "lora-ga": ({"init_lora_weights": "lora_ga"}, MissingInitialError, "needs the adapter of step 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name(tmp_path: Path, case: str) -> None:
    settings, error, words = REFUSED[case]
    path = write_adapter(tmp_path / "adapter", lora_config("b") | settings, small_factors())
    with pytest.raises(error, match=words):
        updates_of(path, small_base(tmp_path / "base"))


def test_magnitudes_that_the_configuration_does_not_name_are_an_error(llama: Path, tmp_path: Path) -> None:
    """peft would leave them out, and load another model than was trained."""
    end, _ = make_adapter(llama, tmp_path, lora({"use_dora": True}))
    change_config(end, use_dora=False)
    with pytest.raises(CorruptFileError, match="does not set use_dora, but has a lora_magnitude_vector"):
        updates_of(end, llama)


def test_a_start_of_fewer_modules_is_named(llama: Path, tmp_path: Path) -> None:
    end, _ = make_adapter(llama, tmp_path / "all", moving("olora", {}))
    _, start = make_adapter(llama, tmp_path / "some", moving("olora", {"target_modules": ["q_proj"]}))
    updates, store = updates_of(end, llama, start)
    with pytest.raises(CorruptFileError, match=r"has no lora_A for model\.layers\.0\.mlp\.down_proj"):
        updates.matrices["model.layers.0.mlp.down_proj"](store["model.layers.0.mlp.down_proj.weight"].double())


def test_tokens_that_the_base_does_not_have_are_named(llama: Path, tmp_path: Path) -> None:
    end, _ = make_adapter(llama, tmp_path, lora({"target_modules": ["q_proj"], "trainable_token_indices": [3, 7]}))
    weight = torch.zeros(40, 32, dtype=torch.float64)
    change_config(end, trainable_token_indices=[3, 40])
    with pytest.raises(SpectraError, match="token 40 of width 32 is not in a base of 40 × 32"):
        updates_of(end, llama)[0].matrices["model.embed_tokens"](weight)
    change_config(end, trainable_token_indices=[3])
    with pytest.raises(CorruptFileError, match="rows of 2 tokens, but the configuration names 1"):
        updates_of(end, llama)[0].matrices["model.embed_tokens"](weight)


@pytest.mark.parametrize("old", ["lora_A.default.weight", "lora_A.weight"])
@pytest.mark.parametrize("magnitude", ["lora_magnitude_vector", "lora_magnitude_vector.default.weight"])
def test_old_spellings_mean_the_same(llama: Path, tmp_path: Path, old: str, magnitude: str) -> None:
    end, _ = make_adapter(llama, tmp_path / "new", lora({"use_dora": True}), size=1e-2)
    tensors = load_file(end / "adapter_model.safetensors")
    renamed = {
        key.replace("lora_A.weight", old).replace("lora_magnitude_vector", magnitude): tensor
        for key, tensor in tensors.items()
    }
    save_file(renamed, end / "adapter_model.safetensors")
    updates, store = updates_of(end, llama)
    make_adapter(llama, tmp_path / "again", lora({"use_dora": True}), size=1e-2)
    check(updates, store, merged_differences(llama, tmp_path / "again" / "end"), EXACT)


def test_a_raw_state_names_the_wrappers_of_replaced_modules(llama: Path, tmp_path: Path) -> None:
    """Trainers that gather shards themselves write the model's own names, beside the weights that were replaced."""
    end, _ = make_adapter(llama, tmp_path, lora({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}))
    expected, store = updates_of(end, llama)
    tensors = load_file(end / "adapter_model.safetensors")
    head = tensors.pop("base_model.model.lm_head.weight")
    raw = {key.replace(".weight", ".default.weight"): tensor for key, tensor in tensors.items()}
    raw["base_model.model.lm_head.modules_to_save.default.weight"] = head
    raw["base_model.model.lm_head.original_module.weight"] = torch.zeros_like(head)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "adapter_config.json").write_text((end / "adapter_config.json").read_text())
    save_file(raw, tmp_path / "raw" / "adapter_model.safetensors")
    updates, _ = updates_of(tmp_path / "raw", llama)
    assert updates.skipped == {}
    assert set(updates.matrices) == set(expected.matrices)
    for module, function in updates.matrices.items():
        weight = store[f"{module}.weight"].double()
        assert torch.equal(function(weight).dense(), expected.matrices[module](weight).dense())
