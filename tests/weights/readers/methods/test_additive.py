"""ΔW of every additive method against peft's merge in float64 minus the original base."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from spectra.errors import (
    BaseModelError,
    CorruptFileError,
    MissingDependencyError,
    SpectraError,
    UnsupportedMethodError,
)
from spectra.linalg.decompositions.spectrum import numerical_rank
from spectra.linalg.operators.basic import Dense, LowRank, Operator, Sum
from spectra.linalg.operators.kronecker_and_circulant import BlockCirculant, Kronecker, Placed
from tests.builders import TARGETS, write_model
from tests.weights.conftest import make_adapter, train_like, write_llama
from tests.weights.merged import EXACT, ROUNDING, SINGLE, change_config, load, merged_differences, updates_of

Q, UP, DOWN = (f"model.layers.0.{name}" for name in ("self_attn.q_proj", "mlp.up_proj", "mlp.down_proj"))


def config_of(kind: str, settings: Mapping[str, Any]) -> Any:
    import peft

    targets = {} if kind == "TrainableTokensConfig" else {"target_modules": TARGETS}
    return getattr(peft, kind)(**{"task_type": "CAUSAL_LM", **targets, **settings})


ADALORA = {"init_r": 4, "target_r": 2, "total_step": 10, "lora_alpha": 3}
MASK = {f"{Q}.lora_E": [True, False, True, False]}
RANDOM = {"r": 8, "randlora_alpha": 16}
BANK = {"r": 2, "num_vectors": 10, "vector_length": 8, "topk": 3}
UNI = {"r": 2, "theta_d_length": 300, "proj_seed": 5}
SEED = {"n_frequency": 9, "random_loc_seed": 3}
# Configuration class, settings, tolerance; class and largest rank of the update of a square matrix.
CASES: dict[str, tuple[str, dict[str, Any], float, type[Operator], int]] = {
    "adalora": ("AdaLoraConfig", ADALORA, EXACT, LowRank, 4),
    "adalora, no alpha": ("AdaLoraConfig", ADALORA | {"lora_alpha": 0}, EXACT, LowRank, 4),
    "adalora, tokens": ("AdaLoraConfig", ADALORA | {"trainable_token_indices": [3]}, EXACT, LowRank, 4),
    "vera": ("VeraConfig", {"r": 5}, EXACT, LowRank, 5),
    "vera, drawn again": (
        "VeraConfig",
        {"r": 5, "save_projection": False, "projection_prng_key": 7},
        EXACT,
        LowRank,
        5,
    ),
    "pvera": ("PveraConfig", {"r": 5, "d_initial": 0.5}, EXACT, LowRank, 5),
    "pvera, drawn again": ("PveraConfig", {"r": 5, "save_projection": False}, EXACT, LowRank, 5),
    "randlora": ("RandLoraConfig", RANDOM, EXACT, Dense, 32),
    "randlora, drawn again": ("RandLoraConfig", RANDOM | {"r": 6, "save_projection": False}, EXACT, Dense, 32),
    "randlora, sparse": ("RandLoraConfig", RANDOM | {"sparse": True, "save_projection": False}, EXACT, Dense, 32),
    "randlora, very sparse": (
        "RandLoraConfig",
        RANDOM | {"very_sparse": True, "save_projection": False},
        EXACT,
        Dense,
        32,
    ),
    "vblora": ("VBLoRAConfig", BANK, EXACT, LowRank, 2),
    "vblora, topk": ("VBLoRAConfig", BANK | {"save_only_topk_weights": True}, SINGLE, LowRank, 2),
    "unilora": ("UniLoraConfig", UNI | {"save_indices": True}, EXACT, LowRank, 2),
    "unilora, dealt again": ("UniLoraConfig", UNI, EXACT, LowRank, 2),
    "unilora, pattern": (
        "UniLoraConfig",
        UNI | {"target_modules": r".*(q|o)_proj", "modules_to_save": ["lm_head"]},
        EXACT,
        LowRank,
        2,
    ),
    "miss": ("MissConfig", {"r": 4}, EXACT, LowRank, 4),
    "miss, cut": ("MissConfig", {"r": 5}, EXACT, LowRank, 5),
    "miss, random": ("MissConfig", {"r": 4, "init_weights": False}, EXACT, LowRank, 4),
    "miss, mini": ("MissConfig", {"r": 4, "init_weights": "mini", "mini_r": 2}, EXACT, LowRank, 2),
    "miss, mini, wide": ("MissConfig", {"r": 4, "init_weights": "mini", "mini_r": 8}, EXACT, LowRank, 4),
    "miss, bat": ("MissConfig", {"r": 4, "init_weights": "bat"}, EXACT, Dense, 32),
    "gralora": ("GraloraConfig", {"r": 4, "gralora_k": 2, "alpha": 8}, EXACT, LowRank, 8),
    "gralora, hybrid": ("GraloraConfig", {"r": 4, "gralora_k": 4, "hybrid_r": 3, "alpha": 8}, EXACT, Sum, 19),
    "gralora, dense": ("GraloraConfig", {"r": 16, "gralora_k": 2, "alpha": 8}, EXACT, Dense, 32),
    "c3a": ("C3AConfig", {"block_size": 8}, SINGLE, BlockCirculant, 32),
    "c3a, pattern": ("C3AConfig", {"block_size": 4, "block_size_pattern": {"q_proj": 16}}, SINGLE, BlockCirculant, 32),
    "c3a, from zero": ("C3AConfig", {"block_size": 1, "init_weights": True}, SINGLE, BlockCirculant, 32),
    "loha": ("LoHaConfig", {"r": 2, "alpha": 3}, EXACT, LowRank, 4),
    "loha, dense": ("LoHaConfig", {"r": 6, "alpha": 3, "alpha_pattern": {"up_proj": 5}}, SINGLE, Dense, 32),
    "loha, patterns": ("LoHaConfig", {"r": 2, "alpha": 3, "rank_pattern": {"q_proj": 3}}, EXACT, LowRank, 9),
    "lokr": ("LoKrConfig", {"r": 2, "alpha": 3}, EXACT, Kronecker, 8),
    "lokr, both": ("LoKrConfig", {"r": 1, "alpha": 3, "decompose_both": True}, EXACT, Kronecker, 1),
    "lokr, whole": ("LoKrConfig", {"r": 8, "alpha": 3, "init_weights": "lycoris"}, EXACT, Kronecker, 32),
    "lokr, factor": ("LoKrConfig", {"r": 2, "alpha": 3, "decompose_factor": 2}, EXACT, Kronecker, 4),
    "shira": ("ShiraConfig", {"r": 2, "random_seed": 1}, EXACT, Placed, 32),
    "fourierft": ("FourierFTConfig", SEED, SINGLE, LowRank, 16),
    "fourierft, dense": ("FourierFTConfig", SEED | {"n_frequency": 200, "scaling": 7.0}, SINGLE, Dense, 32),
    "fourierft, pattern": ("FourierFTConfig", SEED | {"n_frequency_pattern": {"q_proj": 3}}, SINGLE, LowRank, 6),
    "waveft": ("WaveFTConfig", SEED, EXACT, LowRank, 9),
    "waveft, db2": ("WaveFTConfig", SEED | {"wavelet_family": "db2", "n_frequency": 300}, EXACT, Dense, 32),
    "waveft, db7": ("WaveFTConfig", SEED | {"wavelet_family": "db7", "n_frequency": 12}, EXACT, LowRank, 12),
    "waveft, no transform": ("WaveFTConfig", SEED | {"use_idwt": False}, EXACT, Placed, 9),
    "waveft, proportional": ("WaveFTConfig", SEED | {"proportional_parameters": True}, EXACT, LowRank, 9),
    "tokens": ("TrainableTokensConfig", {"token_indices": [7, 2, 30]}, EXACT, Placed, 3),
}


def check_against_the_merge(base: Path, end: Path, tolerance: float) -> dict[str, Operator]:
    """Compare every module's ΔW with the merge; return them."""
    updates, store = updates_of(end, base)
    merged = {name.removesuffix(".weight"): tensor for name, tensor in merged_differences(base, end).items()}
    assert updates.skipped == {}
    assert set(merged) <= set(updates.matrices)
    found = {}
    for module, function in updates.matrices.items():
        weight = store[f"{module}.weight"].double()
        expected = merged.get(module, torch.zeros_like(weight))
        found[module] = delta = function(weight)
        allowed = tolerance * float(torch.linalg.matrix_norm(expected)) + ROUNDING * float(weight.norm())
        assert float(torch.linalg.matrix_norm(delta.dense() - expected)) <= allowed
        sigma, reference = delta.svdvals(), torch.linalg.svdvals(expected)
        assert float(torch.linalg.vector_norm(sigma - reference[: len(sigma)])) <= allowed
        assert numerical_rank(sigma, *delta.shape) <= delta.rank_bound
    return found


# What peft says of projections that it draws again, and torch of the sparse tensors that peft makes.
@pytest.mark.filterwarnings("ignore:Specified to not", "ignore:Sparse invariant checks")
@pytest.mark.parametrize("case", CASES)
def test_against_the_merge_in_float64(llama: Path, tmp_path: Path, case: str) -> None:
    kind, settings, tolerance, operator, bound = CASES[case]
    end, _ = make_adapter(llama, tmp_path, config_of(kind, settings), size=1e-2)
    found = check_against_the_merge(llama, end, tolerance)
    delta = found.get(Q) or found["model.embed_tokens"]
    assert isinstance(delta, operator)
    assert delta.rank_bound <= bound
    assert delta.frobenius() > 1e-6
    assert updates_of(end, llama)[0].method == case.partition(",")[0].replace("tokens", "trainable-tokens")


@pytest.fixture(scope="module")
def half(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of the same model in bfloat16."""
    directory = tmp_path_factory.mktemp("half")
    load(llama).to(torch.bfloat16).save_pretrained(directory)
    return directory


@pytest.mark.filterwarnings("ignore:Specified to not")
@pytest.mark.parametrize("case", [name for name in CASES if "drawn again" in name or "dealt again" in name])
def test_what_is_drawn_again_is_rounded_to_a_half_precision_base(half: Path, tmp_path: Path, case: str) -> None:
    kind, settings, tolerance, _, _ = CASES[case]
    end, _ = make_adapter(half, tmp_path, config_of(kind, settings), size=1e-2)
    assert load(half).dtype == torch.bfloat16
    check_against_the_merge(half, end, tolerance)


# peft takes a module of which every direction is pruned for one that was not gathered.
@pytest.mark.filterwarnings(
    "ignore:Adapter 'default'", "ignore:The following rank_pattern", "ignore:Initializing zero-element"
)
def test_adalora_after_pruning(llama: Path, tmp_path: Path) -> None:
    from peft import get_peft_model

    model = get_peft_model(load(llama), config_of("AdaLoraConfig", ADALORA))
    train_like(model, 1e-2)
    # The allocator writes its masks in the configuration like this, with the adapter's name in them.
    model.peft_config["default"].rank_pattern = {
        f"{module}.lora_E.default": mask for module, mask in masks(model).items()
    }
    model.save_pretrained(tmp_path)
    found = check_against_the_merge(llama, tmp_path, EXACT)
    assert (found[Q].rank_bound, found[UP].rank_bound, found[DOWN].rank_bound) == (3, 1, 4)
    assert found[UP].svdvals().tolist() == [0.0]


def masks(model: Any) -> dict[str, list[bool]]:
    """Return a mask a module: one direction of Q pruned, all of UP, none elsewhere."""
    names = [
        name.removesuffix(".lora_E") for name, _ in model.base_model.model.named_modules() if name.endswith("lora_E")
    ]
    chosen = {Q: [True, False, True, True], UP: [False] * 4}
    return {name: chosen.get(name, [True] * 4) for name in names}


def test_methods_that_do_not_name_the_rows_that_they_change_are_refused(llama: Path, tmp_path: Path) -> None:
    save_file({f"base_model.model.{Q}.adamss_A.0": torch.zeros(2, 4)}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "ADAMSS"}))
    with pytest.raises(UnsupportedMethodError, match="without the rows of W that they change"):
        updates_of(tmp_path, llama)


# A case, settings that no longer belong to its tensors, and the error of the first module.
CONTRADICTED: dict[str, tuple[str, dict[str, Any], type[SpectraError], str]] = {
    "adalora, rank": ("adalora", {"init_r": 5}, CorruptFileError, "keeps 5 directions, the tensors have 4"),
    "adalora, mask": ("adalora", {"rank_pattern": MASK}, CorruptFileError, "keeps 2 directions, the tensors have 4"),
    "wavelet": ("waveft", {"wavelet_family": "sym4"}, UnsupportedMethodError, "wavelet 'sym4' is not read exactly"),
    "token": (
        "tokens",
        {"token_indices": [7, 2, 40]},
        BaseModelError,
        "token 40 of width 32 is not in a base of 40 × 32",
    ),
}


@pytest.mark.parametrize("case", CONTRADICTED)
def test_a_configuration_of_another_adapter_is_named(llama: Path, tmp_path: Path, case: str) -> None:
    name, settings, error, words = CONTRADICTED[case]
    end, _ = make_adapter(llama, tmp_path, config_of(*CASES[name][:2]))
    change_config(end, **settings)
    updates, store = updates_of(end, llama)
    module = Q if Q in updates.matrices else "model.embed_tokens"
    with pytest.raises(error, match=words):
        updates.matrices[module](store[f"{module}.weight"].double())


@pytest.mark.filterwarnings("ignore:Specified to not")
@pytest.mark.parametrize(
    "case", ["vera, drawn again", "randlora", "miss, bat", "shira", "c3a", "loha", "lokr", "gralora"]
)
def test_a_base_of_another_shape_is_named(llama: Path, tmp_path: Path, case: str) -> None:
    end, _ = make_adapter(llama, tmp_path, config_of(*CASES[case][:2]))
    updates, _ = updates_of(end, llama)
    with pytest.raises(CorruptFileError, match="base weight"):
        updates.matrices[Q](torch.zeros(20, 28, dtype=torch.float64))


@pytest.mark.filterwarnings("ignore:Specified to not")
def test_projections_are_not_drawn_for_a_base_without_the_modules(llama: Path, tmp_path: Path) -> None:
    end, _ = make_adapter(llama, tmp_path / "adapter", config_of(*CASES["vera, drawn again"][:2]))
    short = write_llama(tmp_path / "short", num_hidden_layers=1)
    with pytest.raises(BaseModelError, match="shared projections cannot be drawn again"):
        updates_of(end, short)


def test_unilora_without_indices_needs_the_models_code(llama: Path, tmp_path: Path) -> None:
    end, _ = make_adapter(llama, tmp_path / "adapter", config_of(*CASES["unilora, dealt again"][:2]))
    bare = write_model(tmp_path / "bare", load_file(llama / "model.safetensors"))
    with pytest.raises(BaseModelError, match="names no model_type"):
        updates_of(end, bare)
    change_config(end, target_modules=None)
    with pytest.raises(UnsupportedMethodError, match="stores no indices"):
        updates_of(end, llama)


def test_unilora_without_indices_needs_transformers(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end, _ = make_adapter(llama, tmp_path / "adapter", config_of(*CASES["unilora, dealt again"][:2]))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        MissingDependencyError, match="install transformers, or save the adapter with save_indices=True"
    ):
        updates_of(end, llama)
