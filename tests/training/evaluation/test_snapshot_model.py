"""What is evaluated is the policy that trained: on the right base, whatever the method did to it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from spectra.config import dump
from spectra.errors import BaseModelError, UsageError
from spectra.runs.layout import MODEL_WEIGHTS, RunLayout
from spectra.runs.manifest import BaseIdentity, Manifest, now
from spectra.training.data.carry_addition import problems
from spectra.training.evaluation.generate import generate_and_verify
from spectra.training.evaluation.snapshot_model import EvaluatedModel
from spectra.training.methods import find_method
from spectra.training.policy.policy import build_policy
from spectra.training.policy.snapshots import save_snapshot
from spectra.training.recipe.recipe import Recipe
from spectra.weights.storage.base import fingerprint
from tests.training.evaluated_model import evaluated_model
from tests.training.tiny_base_options import small_section

Maker = Callable[..., Recipe]
IDS = torch.arange(5, 35).reshape(3, 10)
LAST = 3


@pytest.fixture
def trained(recipe_for: Maker, tiny_base: Path, tmp_path: Path) -> Callable[..., tuple[Any, Path]]:
    """Return a maker of a run, and the very policy whose snapshots it holds."""

    def make(name: str, dtype: str = "float32") -> tuple[Any, Path]:
        model = {"base": str(tiny_base), "dtype": dtype}
        recipe = recipe_for(method=small_section(name), model=model, steps=LAST, snapshots={"every": LAST})
        policy, layout, method = build_policy(recipe), RunLayout(tmp_path / name), find_method(name)
        save_snapshot(policy.model, layout, 0, str(tiny_base), as_lora=method.facts.saved_as_lora)
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in (p for p in policy.model.parameters() if p.requires_grad):
                parameter.add_(0.05 * torch.randn_like(parameter, dtype=torch.float32).to(parameter.dtype))
        save_snapshot(policy.model, layout, LAST, str(tiny_base), as_lora=method.facts.saved_as_lora)
        base = BaseIdentity(str(tiny_base), None, fingerprint(tiny_base))
        Manifest(now(), {}, None, base, name, "dapo", 0, {}, policy.trainable).write(layout.manifest)
        layout.recipe.write_text(dump(recipe))
        return policy, layout.root

    return make


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.eval()(IDS).logits
    return found.float()


def draw(model: Any, tokenizer: Any) -> Any:
    chosen = problems("eval")[:6]
    return generate_and_verify(model, tokenizer, chosen, samples=4, temperature=1.0, max_new_tokens=8, seed=5)


@pytest.mark.parametrize(
    "name", ["lora", "dora", "pissa", "milora", "olora", "vera", "adalora", "ia3", "layernorm", "full", "beft"]
)
def test_a_snapshot_answers_as_the_policy_did(name: str, trained: Callable[..., tuple[Any, Path]]) -> None:
    policy, run = trained(name)
    opened = evaluated_model(run)
    assert opened.step == LAST
    with opened.loaded(torch.float32, "cpu") as model:
        torch.testing.assert_close(logits(model), logits(policy.model), atol=2e-5, rtol=2e-5)
        assert draw(model, opened.tokenizer()) == draw(policy.model, policy.tokenizer)
    with evaluated_model(run, step=0).loaded(torch.float32, "cpu") as start:
        assert (logits(start) - logits(policy.model)).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["pissa", "milora"])
def test_the_factors_alone_on_the_original_base_are_another_model(
    name: str, trained: Callable[..., tuple[Any, Path]], tiny_base: Path
) -> None:
    """The released evaluation of the study put W₀ + s·BA in the place of W₀ + s(BA − B₀A₀)."""
    policy, run = trained(name)
    wrong = build_policy(evaluated_model(run).recipe, initial=RunLayout(run).snapshot(0))  # type: ignore[arg-type]
    with torch.no_grad():
        for part, pristine in AutoModelForCausalLM.from_pretrained(tiny_base).named_parameters():
            target = f"base_model.model.{part.removesuffix('.weight')}.base_layer.weight"
            found = dict(wrong.model.named_parameters()).get(target)
            if found is not None:
                found.copy_(pristine)
        for (_, here), (_, there) in zip(wrong.model.named_parameters(), policy.model.named_parameters(), strict=True):
            if here.requires_grad:
                here.copy_(there)
    right = logits(policy.model)
    assert (logits(wrong.model) - right).abs().max() > 1e3 * 2e-5
    with evaluated_model(run).loaded(torch.float32, "cpu") as model:
        torch.testing.assert_close(logits(model), right, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", ["lora", "pissa", "milora"])
def test_the_rounding_of_a_base_in_bfloat16_is_part_of_the_policy(
    name: str, trained: Callable[..., tuple[Any, Path]]
) -> None:
    policy, run = trained(name, dtype="bfloat16")
    with evaluated_model(run).directory(torch.float32) as where:
        merged = load_file(where / MODEL_WEIGHTS)
    checked = 0
    for module, layer in policy.model.get_base_model().named_modules():
        if hasattr(layer, "get_delta_weight"):
            expected = layer.get_base_layer().weight.double() + layer.get_delta_weight("default").double()
            torch.testing.assert_close(merged[f"{module}.weight"].double(), expected, atol=1e-6, rtol=1e-6)
            checked += 1
    assert checked > 5


def test_what_bfloat16_loses_of_the_update_is_told(trained: Callable[..., tuple[Any, Path]]) -> None:
    _, run = trained("lora")
    opened = evaluated_model(run)
    assert opened.rounding(torch.float32) < 1e-4
    assert 1e-3 < opened.rounding(torch.bfloat16)
    assert evaluated_model(run, step=0).rounding(torch.bfloat16) == 0.0


def test_another_base_is_refused(trained: Callable[..., tuple[Any, Path]], tiny_base: Path, tmp_path: Path) -> None:
    _, run = trained("lora")
    other = tmp_path / "other"
    other.mkdir()
    for file in tiny_base.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    tensors = load_file(other / MODEL_WEIGHTS)
    tensors["model.norm.weight"] += 1e-3
    save_file(tensors, other / MODEL_WEIGHTS, {"format": "pt"})
    with pytest.raises(
        BaseModelError, match=r"is not the base model that the run was trained on \(model\.norm\.weight differs\)"
    ):
        evaluated_model(run, base=str(other)).identity()


def test_what_decides_the_model_is_in_its_identity(trained: Callable[..., tuple[Any, Path]]) -> None:
    _, run = trained("lora")
    last, first = evaluated_model(run), evaluated_model(run, step=0)
    assert last.identity() == evaluated_model(run).identity()
    assert last.identity()["snapshot_sha256"] != first.identity()["snapshot_sha256"]
    assert last.identity()["base_sha256"] == first.identity()["base_sha256"]
    (last.snapshot.path / "optimizer.pt").write_bytes(b"state")
    assert last.identity() == evaluated_model(run).identity()
    assert evaluated_model(run, initial=first.snapshot.path).identity() != last.identity()


def test_whole_weights_of_another_tool_need_no_base(tiny_base: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    where = tmp_path / "checkpoint-4"
    model.save_pretrained(where)
    opened = evaluated_model(where)
    assert isinstance(opened, EvaluatedModel)
    with opened.loaded(torch.float32, "cpu") as loaded:
        assert torch.equal(logits(loaded), logits(model))
    assert opened.identity()["base"] is None
    with pytest.raises(BaseModelError, match="does not name the base model it was trained on"):
        opened.tokenizer()
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (where / file).write_bytes((tiny_base / file).read_bytes())
    assert opened.tokenizer().eos_token_id is not None


def test_a_step_that_is_not_there(trained: Callable[..., tuple[Any, Path]]) -> None:
    _, run = trained("lora")
    with pytest.raises(UsageError, match=r"there is no snapshot of step 7; steps: \[0, 3\]"):
        evaluated_model(run, step=7)
