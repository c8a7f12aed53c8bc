"""vLLM as the sampler, where it is installed: `make vllm` builds an environment that has it and runs this there."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests
import torch
from transformers import AutoTokenizer

from spectra.runs.layout import RunLayout
from spectra.runs.series import read_metrics
from spectra.training.embedded import WEIGHTS
from spectra.training.loop.run import train
from spectra.training.recipe.recipe import Recipe
from tests.requirements import is_skipped, reason
from tests.training.sampling.recorded_weights import Watch, merged
from tests.training.sampling.vllm_stand_in import free_port, section

if is_skipped("vllm"):
    pytest.skip(reason("vllm"), allow_module_level=True)

Maker = Callable[..., Recipe]
STEPS = 5
SERVED_STEPS = 3
SERVE = Path(__file__).parents[3] / "training" / "vllm" / "serve.py"


@pytest.mark.filterwarnings("default")  # vLLM's own deprecations are not ours to mend
@pytest.mark.parametrize("method", ["lora", "dora"])
@pytest.mark.usefixtures("easy_reward")
def test_frozen_weights_are_bit_identical_after_training_with_vllm(
    method: str, recipe_for: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(monkeypatch)
    recipe = recipe_for(
        method={"name": method},
        model={"dtype": "bfloat16"},  # the base that ships: vLLM's kernels want heads of 32 and more
        steps=STEPS,
        rollout={"engine": "vllm", "max_model_length": 32},
        optimizer={"learning_rate": 1e-2},
        evaluation={"every": None},
    )
    layout = RunLayout(train(recipe, tmp_path / "run", quiet=True))
    watch.check()
    logged = read_metrics(layout.metrics).set_index("step")
    assert list(logged.index) == list(range(1, STEPS + 1))
    # The sampler really is another program: its probabilities differ a little, and are watched.
    assert logged["sampler_mismatch"].between(0, 1).all()


@pytest.fixture(scope="module")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port, log = free_port(), tmp_path_factory.mktemp("server") / "log"
    options = ["--port", str(port), "--dtype", "bfloat16", "--gpu-memory-utilization", "0.2"]
    with log.open("wb") as output:
        command = [sys.executable, str(SERVE), "embedded", *options]
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its engine is a process of its own
        process.wait()
        print(log.read_text(errors="replace")[-3000:])


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("method", ["lora", "dora"])
@pytest.mark.usefixtures("easy_reward")
def test_training_with_vllms_own_server(
    method: str, real_server: str, recipe_for: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(monkeypatch)
    recipe = recipe_for(
        method={"name": method},
        model={"dtype": "bfloat16"},
        steps=SERVED_STEPS,
        rollout=section(real_server, timeout=500),
        optimizer={"learning_rate": 1e-2},
        evaluation={"every": None},
    )
    layout = RunLayout(train(recipe, tmp_path / "run", quiet=True))
    watch.check()
    assert read_metrics(layout.metrics)["sampler_mismatch"].between(0, 0.05).all()
    # The last renewal was before the last step: the server holds the weights after the one before it, and no others.
    ids = AutoTokenizer.from_pretrained(WEIGHTS)("12+34=")["input_ids"]
    served = prompt_logs(real_server, ids)
    there = [model_logs(merged(layout, WEIGHTS, step, torch.bfloat16), ids) for step in range(SERVED_STEPS + 1)]
    distances = [float((served - logs).abs().max()) for logs in there]
    assert min(distances) == distances[SERVED_STEPS - 1] < 0.25  # four units in the last place of a logit of 8 to 16
    assert distances[0] > 1


def prompt_logs(url: str, ids: list[int]) -> torch.Tensor:
    """Return the server's log probability of each token of a text after the first."""
    model = requests.get(f"{url}/v1/models", timeout=10).json()["data"][0]["id"]
    question = {"model": model, "prompt": ids, "max_tokens": 1, "prompt_logprobs": 0}
    choice = requests.post(f"{url}/v1/completions", json=question, timeout=60).json()["choices"][0]
    rows = choice["prompt_logprobs"][1:]
    return torch.tensor([row[str(token)]["logprob"] for row, token in zip(rows, ids[1:], strict=True)])


@torch.no_grad()
def model_logs(model: Any, ids: list[int]) -> torch.Tensor:
    """Return the same of a model here."""
    logs = model(torch.tensor([ids])).logits[0, :-1].float().log_softmax(-1)
    return logs.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
