"""ΔW of adapters against peft's merge in float64 minus the original base, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from spectra.errors import BaseModelError, CorruptFileError, MissingInitialError, UnsupportedMethodError
from spectra.runs.directory import Snapshot
from spectra.weights.initialization.kinds import AdapterOffset
from spectra.weights.storage.bit_differences import write_difference
from spectra.weights.storage.tensors import TensorStore
from spectra.weights.updates import open_updates
from tests import oracles
from tests.builders import (
    TARGETS,
    lora_config,
    open_adapter,
    randn,
    small_base,
    small_factors,
    write_adapter,
    write_model,
)
from tests.weights.conftest import make_adapter

CONFIGS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "rank1": {"r": 1, "lora_alpha": 2},
    "dora": {"use_dora": True},
    "pissa": {"init_lora_weights": "pissa"},
    "dora-pissa": {"init_lora_weights": "pissa", "use_dora": True},
    "patterns": {"rank_pattern": {"q_proj": 3, "layers.1.mlp.up_proj": 2}, "alpha_pattern": {"v_proj": 1}},
    "gaussian": {"init_lora_weights": "gaussian"},
    "head": {"modules_to_save": ["lm_head"]},
}


def make_lora(llama: Path, out: Path, settings: dict[str, Any]) -> tuple[Path, Path]:
    """Return the directories of a trained LoRA-family adapter and of its start."""
    from peft import LoraConfig

    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": TARGETS, "task_type": "CAUSAL_LM", **settings})
    return make_adapter(llama, out, config)


@pytest.mark.parametrize("name", CONFIGS)
def test_against_the_merge_in_float64(llama: Path, tmp_path: Path, name: str) -> None:
    end, start = make_lora(llama, tmp_path, CONFIGS[name])
    base = TensorStore.open_model(llama)
    moves = "pissa" in str(CONFIGS[name].get("init_lora_weights"))
    began = AdapterOffset("saved before training", open_adapter(start)) if moves else None
    updates = open_updates(Snapshot(1, end, "adapter"), base, began)
    assert updates.method == {"rank1": "lora", "patterns": "lora", "gaussian": "lora", "head": "lora"}.get(name, name)
    assert updates.skipped == {}
    oracle = oracles.merged_minus_base_float64(llama, end, start if moves else None)
    assert set(updates.matrices) == set(oracle) | ({"lm_head"} if name == "head" else set())
    for module, expected in oracle.items():
        weight = base[f"{module}.weight"].double()
        delta = updates.matrices[module](weight)
        torch.testing.assert_close(delta.dense(), torch.from_numpy(expected), rtol=0, atol=1e-13)
        torch.testing.assert_close(
            delta.svdvals(), torch.linalg.svdvals(torch.from_numpy(expected))[: delta.rank_bound], rtol=1e-9, atol=1e-13
        )


@pytest.mark.parametrize("kind", ["adapter", "full"])
@pytest.mark.parametrize("headless", ["base", "run"])
def test_a_checkpoint_saved_without_its_head(headless: str, kind: str, tmp_path: Path) -> None:
    base, factors = small_base(tmp_path / "base"), small_factors()
    old = load_file(base / "model.safetensors")
    bare = {name.removeprefix("model."): tensor for name, tensor in old.items()}
    if kind == "adapter":
        parts = {m.removeprefix("model.") if headless == "run" else m: f for m, f in factors.items()}
        run = write_adapter(tmp_path / "run", lora_config("base"), parts)
    else:
        new = {name: tensor + 1e-3 for name, tensor in (bare if headless == "run" else old).items()}
        run = write_model(tmp_path / "run", new)
    store = TensorStore.open_model(write_model(tmp_path / "bare", bare) if headless == "base" else base)
    updates = open_updates(Snapshot(1, run, kind), store, None)  # type: ignore[arg-type]
    assert (updates.skipped, len(updates.matrices)) == ({}, 6)
    for module, function in updates.matrices.items():
        name = f"model.{module.removeprefix('model.')}"
        weight = old[f"{name}.weight"].double()
        expected = 2 * factors[name][0] @ factors[name][1] if kind == "adapter" else torch.full_like(weight, 1e-3)
        torch.testing.assert_close(function(weight).dense(), expected, rtol=1e-3, atol=1e-7)


def test_a_replaced_head_is_a_matrix_of_its_own(llama: Path, tmp_path: Path) -> None:
    end, _ = make_lora(llama, tmp_path, CONFIGS["head"])
    base = TensorStore.open_model(llama)
    old = base["lm_head.weight"].double()
    delta = open_updates(Snapshot(1, end, "adapter"), base, None).matrices["lm_head"](old).dense()
    new = load_file(end / "adapter_model.safetensors")["base_model.model.lm_head.weight"].double()
    assert float(delta.abs().max()) > 1e-4
    torch.testing.assert_close(delta, new - old, rtol=0, atol=0)


def test_full_checkpoints_differ_exactly(tmp_path: Path) -> None:
    base = small_base(tmp_path / "base")
    old = load_file(base / "model.safetensors")
    change = {name: randn(*tensor.shape, seed=3).float() * 1e-4 for name, tensor in old.items()}
    write_model(tmp_path / "new", {name: old[name] + change[name] for name in old}, shards=2)
    updates = open_updates(Snapshot(5, tmp_path / "new", "full"), TensorStore.open_model(base), None)
    new = TensorStore.open_model(tmp_path / "new")
    assert updates.method == "full"
    assert (len(updates.matrices), len(updates.vectors)) == (6, 2)
    for module, function in updates.matrices.items():
        name = f"{module}.weight"
        expected = new[name].double() - old[name].double()
        torch.testing.assert_close(function(old[name].double()).dense(), expected, rtol=0, atol=0)
    norm = "model.layers.0.input_layernorm"
    expected = new[f"{norm}.weight"].double() - 1
    torch.testing.assert_close(updates.vectors[norm](old[f"{norm}.weight"].double()), expected, rtol=0, atol=0)


def test_old_spellings_and_pickled_adapters(tmp_path: Path) -> None:
    base = TensorStore.open_model(small_base(tmp_path / "base"))
    new = write_adapter(tmp_path / "new", lora_config("b"), small_factors())
    tensors = load_file(new / "adapter_model.safetensors")
    old = {key.replace(".weight", ".default.weight"): tensor for key, tensor in tensors.items()}
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "adapter_config.json").write_text((new / "adapter_config.json").read_text())
    torch.save(old, tmp_path / "old" / "adapter_model.bin")
    found = [open_updates(Snapshot(0, path, "adapter"), base, None) for path in (new, tmp_path / "old")]
    assert set(found[0].matrices) == set(found[1].matrices) and len(found[0].matrices) == 6
    for module in found[0].matrices:
        weight = base[f"{module}.weight"].double()
        assert torch.equal(found[0].matrices[module](weight).dense(), found[1].matrices[module](weight).dense())


class Evil:
    def __reduce__(self) -> Any:
        return (print, ("unpickled",))


def test_a_pickle_with_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(lora_config("b")))
    torch.save({"x": Evil()}, tmp_path / "adapter_model.bin")
    base = TensorStore.open_model(small_base(tmp_path / "base"))
    with pytest.raises(CorruptFileError, match="cannot be read as tensors only"):
        open_updates(Snapshot(0, tmp_path, "adapter"), base, None)
    assert "unpickled" not in capsys.readouterr().out


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "pissa without start": ({"init_lora_weights": "pissa"}, MissingInitialError, "needs the adapter of step 0"),
    "another init that moves the base": ({"init_lora_weights": "corda"}, MissingInitialError, "corda moves the base"),
    "an option without an update": ({"arrow_config": {"top_k": 2}}, UnsupportedMethodError, "sets arrow_config"),
    "another peft type": ({"peft_type": "BONE"}, UnsupportedMethodError, "type BONE"),
    "dora without magnitudes": ({"use_dora": True}, CorruptFileError, "has no lora_magnitude_vector"),
    "rank that the tensors do not have": ({"r": 8}, CorruptFileError, "has rank 8, the tensors have 4"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_the_reason(tmp_path: Path, case: str) -> None:
    settings, error, words = REFUSED[case]
    base = TensorStore.open_model(small_base(tmp_path / "base"))
    path = write_adapter(tmp_path / "adapter", lora_config("b") | settings, small_factors())
    with pytest.raises(error, match=words):
        updates = open_updates(Snapshot(3, path, "adapter"), base, None)
        module = next(iter(updates.matrices))
        updates.matrices[module](base[f"{module}.weight"].double())


def test_modules_that_the_base_lacks_are_skipped_with_the_reason(tmp_path: Path) -> None:
    base = TensorStore.open_model(small_base(tmp_path / "base", layers=1))
    path = write_adapter(tmp_path / "adapter", lora_config("b"), small_factors(layers=2))
    updates = open_updates(Snapshot(3, path, "adapter"), base, None)
    assert len(updates.matrices) == 3
    assert updates.skipped["model.layers.1.mlp.up_proj"] == "the base has no such parameter"


def test_nothing_that_matches_is_an_error(tmp_path: Path) -> None:
    base = TensorStore.open_model(write_model(tmp_path / "base", {"other.weight": randn(3, 3)}))
    path = write_adapter(tmp_path / "adapter", lora_config("b"), small_factors())
    with pytest.raises(BaseModelError, match="nothing in it matches the base"):
        open_updates(Snapshot(3, path, "adapter"), base, None)


def test_a_base_of_another_shape_is_an_error(tmp_path: Path) -> None:
    base = TensorStore.open_model(small_base(tmp_path / "base", width=20))
    path = write_adapter(tmp_path / "adapter", lora_config("b"), small_factors())
    updates = open_updates(Snapshot(3, path, "adapter"), base, None)
    with pytest.raises(CorruptFileError, match="the update is 24 × 24, the base weight 20 × 20"):
        updates.matrices["model.layers.0.self_attn.q_proj"](base["model.layers.0.self_attn.q_proj.weight"].double())


@pytest.mark.parametrize("kind", ["adapter", "full", "difference"])
def test_a_tensor_of_another_shape_is_skipped_and_the_others_are_read(kind: str, tmp_path: Path) -> None:
    base = small_base(tmp_path / "base")
    old = load_file(base / "model.safetensors")
    store = TensorStore.open_model(base)
    grown, path = "model.layers.0.self_attn.q_proj", tmp_path / "new"
    new = {name: tensor + 1e-3 for name, tensor in old.items()}
    new[f"{grown}.weight"] = torch.cat([new[f"{grown}.weight"], torch.ones(3, 24)])
    if kind == "adapter":
        factors = {module: pair for module, pair in small_factors().items() if module != grown}
        write_adapter(path, lora_config("base"), factors)
        saved = load_file(path / "adapter_model.safetensors")
        saved[f"base_model.model.{grown}.weight"] = new[f"{grown}.weight"]
        save_file(saved, path / "adapter_model.safetensors")
    elif kind == "full":
        write_model(path, new)
    else:
        write_model(path, {})
        (path / "model.safetensors").unlink()
        write_difference(path / "model_update.safetensors", new, store)
    updates = open_updates(Snapshot(1, path, "adapter" if kind == "adapter" else "full"), store, None)
    assert updates.skipped == {grown: "has shape (27, 24), in the base (24, 24)"}
    assert updates.reshaped == {grown}
    assert len(updates.matrices) == 5
    for module, function in updates.matrices.items():
        assert float(function(store[f"{module}.weight"].double()).frobenius()) > 0
    with pytest.raises(UnsupportedMethodError, match=r"q_proj has shape \(27, 24\), in the base \(24, 24\), so it"):
        updates.require_shapes()


def test_a_checkpoint_of_another_width_matches_nothing(tmp_path: Path) -> None:
    base = TensorStore.open_model(small_base(tmp_path / "base", width=20))
    with pytest.raises(BaseModelError, match="nothing in it matches the base .*has shape"):
        open_updates(Snapshot(3, small_base(tmp_path / "other"), "full"), base, None)


def test_an_empty_adapter_is_named(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(lora_config("b")))
    save_file({}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(CorruptFileError, match="holds no tensor"):
        open_updates(Snapshot(0, tmp_path, "adapter"), TensorStore.open_model(small_base(tmp_path / "base")), None)
