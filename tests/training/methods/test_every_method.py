"""Every method trains under GRPO, moves the model, reloads exactly with peft, is read exactly, and resumes to the bit.

One run a method: five steps, a checkpoint at the third; then the end is taken away and made again from there.
"""

import copy
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from spectra.errors import MissingDependencyError, UnsupportedMethodError
from spectra.runs.directory import Snapshot, open_run
from spectra.runs.layout import ADAPTER_WEIGHTS, RunLayout
from spectra.runs.manifest import Manifest
from spectra.training.compat.library_warnings import harmless_ignored
from spectra.training.loop import run
from spectra.training.methods import METHODS, Method
from spectra.training.policy.policy import Policy, build_policy
from spectra.training.recipe.recipe import Recipe
from spectra.weights.initialization.find import find_initial_offset
from spectra.weights.storage.tensors import TensorStore
from spectra.weights.updates import open_full_weights, open_updates
from tests.training.tiny_base_options import small_section

Maker = Callable[..., Recipe]
IDS = torch.arange(5, 35).reshape(3, 10)
# No ΔW of the base's parameters: a bias that the base does not have, or a change that depends on the input.
NO_UPDATE = {"beft", "lily", "shadow"}
# Initialised at random: the policy does not start as the base.
STARTS_ELSEWHERE = {"vblora", "unilora"}


def logits(model: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.eval()(IDS).logits
    return found


def reload(method: Method, base: Path, snapshot: Path) -> torch.nn.Module:
    """Load a snapshot as anyone would, with another random stream than the run's."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    torch.manual_seed(99)
    if method.config is None:
        full: torch.nn.Module = AutoModelForCausalLM.from_pretrained(base)
        full.load_state_dict(dict(open_full_weights(snapshot, TensorStore.open_model(base))))
        return full
    with harmless_ignored():
        model: torch.nn.Module = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), snapshot)
    return model


@pytest.fixture
def policies(monkeypatch: pytest.MonkeyPatch) -> list[Policy]:
    """The policies that runs build, so that what trained can be compared with what was saved."""
    built: list[Policy] = []

    def build(*args: Any, **kwargs: Any) -> Policy:
        built.append(build_policy(*args, **kwargs))
        return built[-1]

    monkeypatch.setattr("spectra.training.loop.run.build_policy", build)
    return built


@pytest.mark.slow
# RandLoRA's shared bases are saved once; peft misses a copy a module, and has them all the same.
@pytest.mark.filterwarnings("ignore:Found missing adapter keys.*randlora_[AB]")
@pytest.mark.usefixtures("easy_reward")
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_it_trains_reloads_and_resumes(
    method: Method, recipe_for: Maker, tiny_base: Path, tmp_path: Path, policies: list[Policy]
) -> None:
    recipe = recipe_for(
        method=small_section(method.name),
        steps=5,
        optimizer={"learning_rate": 1e-2},
        snapshots={"every": 5},
        checkpoints={"every": 3},
        evaluation={"every": None},
    )
    layout = RunLayout(tmp_path / "run")
    if method.needs is not None and find_spec(method.needs[0]) is None:
        with pytest.raises(MissingDependencyError, match=f"needs {method.needs[1]}; pip install {method.needs[1]}"):
            run.train(recipe, layout.root, quiet=True)
        return
    run.train(recipe, layout.root, quiet=True)

    base = reload(METHODS[0], tiny_base, tiny_base)
    start, end = (reload(method, tiny_base, layout.snapshot(step)) for step in (0, 5))
    if method.name not in STARTS_ELSEWHERE:
        torch.testing.assert_close(logits(start), logits(base), atol=2e-5, rtol=2e-5)
    assert (logits(end) - logits(start)).abs().max() > 1e-3
    torch.testing.assert_close(logits(end), logits(policies[0].model), atol=2e-5, rtol=2e-5)
    assert Manifest.read(layout.manifest).trainable == policies[0].trainable

    check_tensors(layout, tiny_base)
    check_update(method, policies[0].model, tiny_base, layout)
    finished = {path.name: path.read_bytes() for path in layout.snapshot(5).iterdir()}
    shutil.rmtree(layout.snapshot(5))
    shutil.rmtree(layout.checkpoints / "checkpoint-5", ignore_errors=True)
    run.train(recipe, layout.root, quiet=True)
    assert {path.name: path.read_bytes() for path in layout.snapshot(5).iterdir()} == finished


def check_tensors(layout: RunLayout, base: Path) -> None:
    """What is saved is float32 (or integers), finite, and not twice."""
    file = layout.snapshot(5) / ADAPTER_WEIGHTS
    tensors = load_file(file) if file.exists() else dict(open_full_weights(file.parent, TensorStore.open_model(base)))
    assert all(not t.is_floating_point() or t.dtype == torch.float32 for t in tensors.values())
    assert all(bool(t.isfinite().all()) for t in tensors.values())


def check_update(method: Method, policy: Any, base: Path, layout: RunLayout) -> None:
    """What is read from the snapshot is what the policy became, merged, minus the original base."""
    store = TensorStore.open_model(base)
    snapshot = Snapshot(5, layout.snapshot(5), "full" if method.config is None else "adapter")
    if method.name in NO_UPDATE:
        with pytest.raises(UnsupportedMethodError):
            open_updates(snapshot, store, None)
        return
    updates = open_updates(snapshot, store, find_initial_offset(snapshot, open_run(layout.root), store))
    with harmless_ignored():
        merged = (policy if method.config is None else copy.deepcopy(policy).merge_and_unload()).state_dict()
    found = {name: read(store[f"{name}.weight"].double()).dense() for name, read in updates.matrices.items()}
    found |= {name: read(store[f"{name}.weight"].double()) for name, read in updates.vectors.items()}
    for parameter in store:
        change = merged[parameter].double() - store[parameter].double()
        read = found.get(parameter.removesuffix(".weight"), torch.zeros_like(change))
        # peft merges in float32: each weight carries its own rounding.
        torch.testing.assert_close(read, change, atol=3e-6, rtol=1e-4, msg=parameter)


@pytest.mark.usefixtures("easy_reward")
@pytest.mark.parametrize("name", ["adalora", "vera", "lora_fa", "layernorm", "randlora", "osf", "shadow"])
def test_a_reference_costs_no_second_adapter(name: str, recipe_for: Maker, tmp_path: Path) -> None:
    from spectra.runs.series import read_metrics

    sizes = {"generations": 4, "max_completion_length": 4, "beta": 0.05}
    recipe = recipe_for(method=small_section(name), algorithm=sizes, optimizer={"learning_rate": 1e-1})
    layout = RunLayout(run.train(recipe, tmp_path / "run", quiet=True))
    divergence = read_metrics(layout.metrics)["kl"].dropna().tolist()
    # The reference is the base, which is where the policy starts.
    assert divergence[0] == pytest.approx(0, abs=1e-6)
    assert divergence[1] > 1e-6
