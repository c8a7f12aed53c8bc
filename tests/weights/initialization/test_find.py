"""The start of adapters that moved the base: found, recomputed, or named as missing. peft makes every adapter."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from spectra.errors import BaseModelError, MissingInitialError
from spectra.runs.directory import open_run
from spectra.runs.snapshots import Snapshot
from spectra.weights.initialization.find import find_initial_offset
from spectra.weights.initialization.kinds import AdapterOffset, RecomputedOffset, ResidualOffset, product
from spectra.weights.readers.offset import InitialOffset
from spectra.weights.storage.tensors import TensorStore
from tests import oracles
from tests.builders import TARGETS, matrix, open_adapter, randn
from tests.weights.conftest import make_adapter, write_llama

SETTINGS: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": TARGETS, "task_type": "CAUSAL_LM"}
MODULE = "model.layers.0.self_attn.k_proj"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama whose matrices have gaps between their singular values."""
    directory = write_llama(tmp_path_factory.mktemp("base"))
    tensors = load_file(directory / "model.safetensors")
    spread = {
        name: matrix(*tensor.shape, condition=30, seed=number).float() if tensor.ndim == 2 else tensor
        for number, (name, tensor) in enumerate(sorted(tensors.items()))
    }
    save_file(spread, directory / "model.safetensors", {"format": "pt"})
    return directory


def make_run(base: Path, out: Path, *, size: float = 1e-3, **settings: Any) -> tuple[Path, Path]:
    """Return a run with checkpoint-5 that peft wrote, and the start, which lies outside of it."""
    from peft import LoraConfig

    end, start = make_adapter(base, out / "made", LoraConfig(**{**SETTINGS, **settings}), size=size)
    shutil.copytree(end, out / "run" / "checkpoint-5")
    return out / "run", start


def find(run: Path, base: Path, given: Path | None = None) -> InitialOffset | None:
    opened = open_run(run)
    return find_initial_offset(opened.snapshots[-1], opened, TensorStore.open_model(base), given)


def updates(run: Path, base: Path, start: InitialOffset) -> dict[str, Tensor]:
    store = TensorStore.open_model(base)
    adapter = open_adapter(open_run(run).snapshots[-1].path)
    weights = {module: store[f"{module}.weight"].double() for module in adapter.parts}
    return {
        module: start.subtract(module, weight, product(adapter, module, weight)).dense()
        for module, weight in weights.items()
    }


def errors(run: Path, base: Path, start: InitialOffset, saved: Path) -> float:
    """Return the largest relative error of ΔW against peft's merge in float64, over all modules."""
    oracle = oracles.merged_minus_base_float64(base, run / "checkpoint-5", saved)
    found = updates(run, base, start)
    assert set(found) == set(oracle)
    exact = {module: torch.from_numpy(delta) for module, delta in oracle.items()}
    return max(float((found[m] - exact[m]).norm() / exact[m].norm()) for m in exact)


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora"])
@pytest.mark.parametrize("name", ["checkpoint-0", "pissa_init", "adapters/init", "initial"])
def test_a_saved_start_is_found_and_exact(base: Path, tmp_path: Path, init: str, name: str) -> None:
    run, saved = make_run(base, tmp_path, init_lora_weights=init)
    shutil.copytree(saved, run / name)
    start = find(run, base)
    assert isinstance(start, AdapterOffset)
    assert start.adapter.path == run / name
    assert ("own step 0" if name == "checkpoint-0" else "found next to") in start.origin
    assert errors(run, base, start, saved) < 1e-9
    copy = pickle.loads(pickle.dumps(start))
    assert (copy.origin, copy.files) == (start.origin, start.files)
    assert errors(run, base, copy, saved) < 1e-9


def test_peft_saves_the_start_of_a_conversion_as_a_plain_lora(base: Path, tmp_path: Path) -> None:
    run, saved = make_run(base, tmp_path, init_lora_weights="pissa_niter_4")
    write_config(shutil.copytree(saved, run / "pissa_init"), init_lora_weights=True)
    start = find(run, base)
    assert isinstance(start, AdapterOffset)
    assert errors(run, base, start, saved) < 1e-9


def write_config(adapter: Path, **changes: Any) -> Path:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return adapter


@pytest.mark.parametrize("init", ["pissa", "olora"])
@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"rank_pattern": {"q_proj": 3}}])
def test_a_deterministic_start_is_recomputed(base: Path, tmp_path: Path, init: str, settings: dict[str, Any]) -> None:
    run, saved = make_run(base, tmp_path, init_lora_weights=init, size=3e-2, **settings)
    start = find(run, base)
    assert isinstance(start, RecomputedOffset)
    assert "recomputed in float64" in start.origin and start.files == ()
    assert errors(run, base, start, saved) < 2e-5
    store = TensorStore.open_model(base)
    adapter = open_adapter(saved)
    for module in adapter.parts:
        weight = store[f"{module}.weight"].double()
        difference = (start.removed(module, weight).dense() - product(adapter, module, weight).dense()).norm()
        assert 0 < float(difference) < start.error(module, weight) < 1e-4 * float(weight.norm())


def test_a_recomputation_that_is_too_coarse_for_the_update_is_refused(base: Path, tmp_path: Path) -> None:
    run, _ = make_run(base, tmp_path, init_lora_weights="pissa", size=1e-6)
    with pytest.raises(MissingInitialError, match=r"only to .*% of the update \(estimated\).*--initial DIR"):
        find(run, base)


def test_half_precision_factors_are_not_recomputed(base: Path, tmp_path: Path) -> None:
    run, _ = make_run(base, tmp_path, init_lora_weights="pissa")
    file = run / "checkpoint-5" / "adapter_model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    with pytest.raises(MissingInitialError, match="can be recomputed from the base only to"):
        find(run, base)


def test_equal_singular_values_are_not_recomputed(base: Path, tmp_path: Path) -> None:
    run, _ = make_run(base, tmp_path, init_lora_weights="pissa")
    weight = torch.eye(6, dtype=torch.float64)
    start = RecomputedOffset("", open_adapter(run / "checkpoint-5"), "pissa")
    assert start.error(MODULE, weight) > 1e6


@pytest.mark.parametrize(
    ("init", "why"),
    [
        ("pissa_niter_4", "its SVD is randomized and unseeded"),
        ("corda", "from data that the adapter does not hold"),
        ("lora_ga", "from gradients"),
        ("loftq", "the base was quantized"),
        ("milora", "spectra does not know how it was computed"),
    ],
)
def test_others_are_refused_with_what_is_missing(base: Path, tmp_path: Path, init: str, why: str) -> None:
    run, _ = make_run(base, tmp_path, init_lora_weights="pissa_niter_4")
    write_config(run / "checkpoint-5", init_lora_weights=init)
    with pytest.raises(MissingInitialError, match=why) as caught:
        find(run, base)
    assert "--initial DIR" in str(caught.value) and "checkpoint-0" in str(caught.value)


@pytest.mark.parametrize("init", [True, False, "gaussian", "orthogonal"])
def test_a_plain_lora_has_no_start(base: Path, tmp_path: Path, init: Any) -> None:
    run, saved = make_run(base, tmp_path, init_lora_weights=init, size=3e-2)
    assert find(run, base) is None
    shutil.copytree(saved, run / "checkpoint-0")
    assert find(run, base) is None


@pytest.mark.filterwarnings("ignore:PiSSA changes the base weights")
def test_a_converted_adapter_is_a_plain_lora(base: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from tests.weights.conftest import train_like

    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(**SETTINGS, init_lora_weights="pissa")
    )
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(tmp_path / "start")
    model.peft_config["default"].init_lora_weights = "pissa"
    train_like(model)
    out = tmp_path / "run" / "checkpoint-5"
    model.save_pretrained(out, path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    assert json.loads((out / "adapter_config.json").read_text())["r"] == 8
    assert find(tmp_path / "run", base) is None


def test_full_checkpoints_have_no_start(base: Path) -> None:
    run = open_run(base)
    assert find_initial_offset(Snapshot(0, base, "full"), run, TensorStore.open_model(base)) is None


def milora(base: Path, out: Path) -> tuple[Path, Path]:
    """Return a run whose adapter started on the last singular directions and says so nowhere, and its start.

    Written as PeRL's recipe does: A = √S_r V_rᵀ, B = U_r √S_r of the last r, scale 1, init_lora_weights true.
    """
    run, _ = make_run(base, out, lora_alpha=4)
    store = TensorStore.open_model(base)
    initial = shutil.copytree(run / "checkpoint-5", out / "start")
    tensors = {}
    for module in open_adapter(initial).parts:
        u, s, vh = torch.linalg.svd(store[f"{module}.weight"].double(), full_matrices=False)
        root = s[-4:].sqrt()
        tensors[f"base_model.model.{module}.lora_A.weight"] = (root[:, None] * vh[-4:]).float().contiguous()
        tensors[f"base_model.model.{module}.lora_B.weight"] = (u[:, -4:] * root).float().contiguous()
    save_file(tensors, initial / "adapter_model.safetensors", {"format": "pt"})
    trained = {name: tensor + 1e-3 * randn(*tensor.shape, seed=5).float() for name, tensor in tensors.items()}
    save_file(trained, run / "checkpoint-5" / "adapter_model.safetensors", {"format": "pt"})
    return run, initial


def test_milora_under_a_plain_name_is_suspected(base: Path, tmp_path: Path) -> None:
    run, initial = milora(base, tmp_path)
    with pytest.raises(
        MissingInitialError, match=r"last singular directions of W, as in MiLoRA.s initialization.*--initial DIR"
    ):
        find(run, base)
    start = find(run, base, initial)
    assert isinstance(start, AdapterOffset) and "--initial" in start.origin
    assert errors(run, base, start, initial) < 1e-9
    shutil.copytree(initial, run / "checkpoint-0")
    assert find(run, base) is not None


def test_pissa_under_a_plain_name_is_suspected(base: Path, tmp_path: Path) -> None:
    run, _ = make_run(base, tmp_path, init_lora_weights="pissa")
    write_config(run / "checkpoint-5", init_lora_weights=True)
    with pytest.raises(MissingInitialError, match="first singular directions of W, as in PiSSA's initialization"):
        find(run, base)


def residual(base: Path, start: Path, out: Path, dtype: Any = torch.float32) -> Path:
    """Write W − s·B₀A₀ as a model directory."""
    shutil.copytree(base, out)
    tensors = load_file(out / "model.safetensors")
    adapter = open_adapter(start)
    for module in adapter.parts:
        weight = tensors[f"{module}.weight"].double()
        tensors[f"{module}.weight"] = (weight - product(adapter, module, weight).dense()).to(dtype)
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    return out


def test_a_residual_base_is_a_start(base: Path, tmp_path: Path) -> None:
    run, saved = make_run(base, tmp_path, init_lora_weights="pissa_niter_4")
    residual(base, saved, run / "residual_model")
    start = find(run, base)
    assert isinstance(start, ResidualOffset)
    assert start.files == (run / "residual_model" / "model.safetensors",)
    assert errors(run, base, start, saved) < 1e-4  # the rounding of the residual to float32 is part of what was trained


def test_quantized_initializations_need_the_frozen_weights(base: Path, tmp_path: Path) -> None:
    run, saved = make_run(base, tmp_path, init_lora_weights="pissa_niter_4")
    write_config(run / "checkpoint-5", init_lora_weights="loftq")
    with pytest.raises(MissingInitialError, match="froze quantized weights, which no adapter contains"):
        find(run, base, saved)
    frozen = residual(base, saved, tmp_path / "quantized", torch.bfloat16)
    start = find(run, base, frozen)
    assert isinstance(start, ResidualOffset)
    store, rounded = TensorStore.open_model(base), TensorStore.open_model(frozen)
    weight = store[f"{MODULE}.weight"].double()
    taken = start.removed(MODULE, weight)
    torch.testing.assert_close(taken.dense(), weight - rounded[f"{MODULE}.weight"].double(), rtol=0, atol=0)
    assert taken.rank_bound == min(weight.shape)


def test_starts_that_do_not_fit_are_refused(base: Path, tmp_path: Path) -> None:
    run, saved = make_run(base, tmp_path, init_lora_weights="pissa_niter_4")
    other = write_llama(tmp_path / "other")
    with pytest.raises(BaseModelError, match="away from what pissa_niter_4 takes out of this base"):
        find(run, other, saved)
    shutil.copytree(saved, run / "checkpoint-0")
    with pytest.raises(BaseModelError, match="step 0 does not fit the base"):
        find(run, other)
    with pytest.raises(MissingInitialError, match="initialized by corda"):
        find(run, base, write_config(shutil.copytree(saved, tmp_path / "corda"), init_lora_weights="corda"))
    with pytest.raises(MissingInitialError, match="holds neither an adapter nor model weights"):
        find(run, base, tmp_path / "absent")
    with pytest.raises(BaseModelError, match="it is the base itself"):
        find(run, base, base)


def test_a_trained_adapter_is_not_taken_for_a_start(base: Path, tmp_path: Path) -> None:
    run, _ = make_run(base, tmp_path, init_lora_weights="pissa_niter_4")
    shutil.copytree(run / "checkpoint-5", run / "my_init")
    with pytest.raises(MissingInitialError, match="needs the adapter of step 0"):
        find(run, base)


def test_two_starts_are_ambiguous(base: Path, tmp_path: Path) -> None:
    run, saved = make_run(base, tmp_path, init_lora_weights="pissa_niter_4")
    for name in ("a_init", "b_init"):
        shutil.copytree(saved, run / name)
    with pytest.raises(MissingInitialError, match="a_init and b_init could both be its initialization"):
        find(run, base)
