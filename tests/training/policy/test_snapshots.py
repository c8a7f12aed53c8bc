"""A snapshot is the policy: loaded by its own library it gives the same logits."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from spectra.commands.export import export_model
from spectra.runs.layout import ADAPTER_CONFIG, ADAPTER_WEIGHTS, MODEL_CONFIG, MODEL_UPDATE, RunLayout
from spectra.training.policy.policy import Policy, build_policy
from spectra.training.policy.snapshots import save_snapshot
from spectra.training.recipe.recipe import Recipe

Maker = Callable[..., Recipe]
IDS = torch.arange(5, 25).reshape(2, 10)


def moved(recipe: Recipe) -> Policy:
    """A policy as after training: every trainable weight has moved, those that start at zero too."""
    policy = build_policy(recipe)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return policy


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = model.eval()(IDS).logits
    return out


@pytest.mark.parametrize("method", ["lora", "dora", "pissa", "adalora", "vera"])
def test_an_adapter_loads_with_peft(method: str, recipe_for: Maker, tiny_base: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    recipe = recipe_for(method={"name": method}, steps=4)
    policy = moved(recipe)
    directory = save_snapshot(policy.model, RunLayout(tmp_path), 7, "some/base", "abc")
    base = AutoModelForCausalLM.from_pretrained(tiny_base)
    before = logits(base)
    loaded = PeftModel.from_pretrained(base, directory)
    expected = logits(policy.model)
    assert (expected - before).abs().max() > 0.05
    torch.testing.assert_close(logits(loaded), expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_full_snapshot_is_exported_as_the_model_bit_for_bit(
    dtype: str, recipe_for: Maker, tiny_base: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    policy = moved(recipe_for(method={"name": "full"}, model={"base": str(tiny_base), "dtype": dtype}))
    directory = save_snapshot(policy.model, RunLayout(tmp_path), 7, str(tiny_base))
    assert {path.name for path in directory.iterdir()} == {MODEL_CONFIG, MODEL_UPDATE}
    out = export_model(directory, tmp_path / "model", base=str(tiny_base))
    loaded = AutoModelForCausalLM.from_pretrained(out).state_dict()
    assert all(torch.equal(loaded[name], tensor.float()) for name, tensor in policy.model.state_dict().items())


def test_a_snapshot_names_the_base_as_the_recipe_does_and_nothing_of_this_machine(
    recipe_for: Maker, tiny_base: Path, tmp_path: Path
) -> None:
    directory = save_snapshot(build_policy(recipe_for()).model, RunLayout(tmp_path), 0, "embedded")
    config = json.loads((directory / ADAPTER_CONFIG).read_text())
    assert (config["base_model_name_or_path"], config["inference_mode"]) == ("embedded", True)
    assert config["target_modules"] == sorted(config["target_modules"])
    assert all(str(tiny_base) not in path.read_text(errors="ignore") for path in directory.iterdir())


def test_a_half_precision_base_gives_float32_factors(recipe_for: Maker, tiny_base: Path, tmp_path: Path) -> None:
    policy = build_policy(recipe_for(model={"base": str(tiny_base), "dtype": "bfloat16"}))
    directory = save_snapshot(policy.model, RunLayout(tmp_path), 0, "base")
    with safe_open(directory / ADAPTER_WEIGHTS, framework="pt") as tensors:
        assert {tensors.get_tensor(name).dtype for name in tensors.keys()} == {torch.float32}


def test_nothing_is_pickled_and_the_same_step_is_replaced(recipe_for: Maker, tmp_path: Path) -> None:
    layout = RunLayout(tmp_path)
    layout.snapshot(3).mkdir(parents=True)
    (layout.snapshot(3) / "stale.bin").write_bytes(b"")
    save_snapshot(build_policy(recipe_for()).model, layout, 3, "base")
    assert [path.name for path in layout.snapshots.iterdir()] == ["step_000003"]
    assert {path.name for path in layout.snapshot(3).iterdir()} == {ADAPTER_CONFIG, ADAPTER_WEIGHTS}


@pytest.mark.parametrize("method", ["lora", "full"])
def test_every_file_is_as_readable_as_the_others(
    method: str, recipe_for: Maker, tiny_base: Path, tmp_path: Path
) -> None:
    model = build_policy(recipe_for(method={"name": method})).model
    directory = save_snapshot(model, RunLayout(tmp_path), 0, str(tiny_base))
    (tmp_path / "plain").write_text("")
    assert {path.stat().st_mode for path in directory.iterdir()} == {(tmp_path / "plain").stat().st_mode}


def test_a_failed_save_leaves_the_old_snapshot(
    recipe_for: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, layout = build_policy(recipe_for()).model, RunLayout(tmp_path)
    save_snapshot(model, layout, 3, "base")
    monkeypatch.setattr("safetensors.torch.save_file", lambda *a, **k: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_snapshot(model, layout, 3, "other")
    assert [path.name for path in layout.snapshots.iterdir()] == ["step_000003"]
    assert json.loads((layout.snapshot(3) / ADAPTER_CONFIG).read_text())["base_model_name_or_path"] == "base"
