"""vLLM as the sampler, where it is installed: `make vllm` builds an environment that has it and runs this there."""

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from spectra.runs.layout import RunLayout
from spectra.runs.series import read_metrics
from spectra.training import run as run_module
from spectra.training.recipe import Recipe
from spectra.training.run import train
from spectra.weights.tensors import digest

REQUIRED = "SPECTRA_REQUIRE_VLLM"  # set where it must be there: a skip is then a failure

if find_spec("vllm") is None and not os.environ.get(REQUIRED):
    pytest.skip("vLLM is not installed; `make vllm` builds an environment with it", allow_module_level=True)

Maker = Callable[..., Recipe]
STEPS = 5


@pytest.mark.filterwarnings("default")  # vLLM's own deprecations are not ours to mend
@pytest.mark.parametrize("method", ["lora", "dora"])
@pytest.mark.usefixtures("easy_reward")
def test_frozen_weights_are_bit_identical_after_training_with_vllm(
    method: str, recipe_for: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen: list[dict[str, str]] = []
    models = []
    build = run_module.build_policy

    def watched(*args: object, **kwargs: object) -> object:
        policy = build(*args, **kwargs)
        models.append(policy.model)
        frozen.append(fingerprints(policy.model))
        return policy

    monkeypatch.setattr(run_module, "build_policy", watched)
    recipe = recipe_for(
        method={"name": method},
        model={"dtype": "bfloat16"},  # the base that ships: vLLM's kernels want heads of 32 and more
        steps=STEPS,
        rollout={"engine": "vllm", "max_model_length": 32},
        optimizer={"learning_rate": 1e-2},
        evaluation={"every": None},
    )
    layout = RunLayout(train(recipe, tmp_path / "run", quiet=True))
    frozen.append(fingerprints(models[0]))
    assert frozen[0] == frozen[1]
    assert len(frozen[0]) > 10
    logged = read_metrics(layout.metrics).set_index("step")
    assert list(logged.index) == list(range(1, STEPS + 1))
    # The sampler really is another program: its probabilities differ a little, and are watched.
    assert logged["sampler_mismatch"].between(0, 1).all()


def fingerprints(model: object) -> dict[str, str]:
    return {name: digest(p.data) for name, p in model.named_parameters() if not p.requires_grad}
