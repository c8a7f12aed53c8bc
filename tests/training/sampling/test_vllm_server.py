"""vLLM as a server: what it is given and asked, and what is refused. A stand-in answers; the real one: test_vllm.py."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from spectra.errors import EngineError, MissingDependencyError
from spectra.runs.layout import RunLayout
from spectra.runs.series import read_metrics
from spectra.training.loop.run import train
from spectra.training.recipe.recipe import Recipe
from spectra.training.recipe.sampling import RolloutRecipe
from spectra.training.sampling import rollout
from spectra.training.sampling.rollout import rollout_arguments
from spectra.training.sampling.vllm_server import write_weights
from tests.training.conftest import make_base
from tests.training.sampling.recorded_weights import Watch, merged
from tests.training.sampling.vllm_stand_in import StandIn, connect, listening, section

pytestmark = pytest.mark.filterwarnings("default")  # vLLM's own deprecations are not ours to mend

Maker = Callable[..., Recipe]
STEPS = 3
# Of probabilities: in half precision, merged weights and weights beside an adapter differ by rounding.
MISMATCH = {"float32": 1e-5, "bfloat16": 0.1}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", ["lora", "dora"])
@pytest.mark.usefixtures("easy_reward", "without_vllm")
def test_every_step_samples_from_its_own_merged_weights(
    method: str, dtype: str, recipe_for: Maker, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch, kind = Watch(monkeypatch), getattr(torch, dtype)
    server = StandIn(tiny_base, kind)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with listening(server) as url:
        recipe = recipe_for(
            method={"name": method},
            model={"base": str(tiny_base), "dtype": dtype},
            steps=STEPS,
            rollout=section(url + "/"),
            optimizer={"learning_rate": 1e-2},
            evaluation={"every": None},
        )
        layout = RunLayout(train(recipe, tmp_path / "run", quiet=True))
    watch.check()
    assert len(server.received) == STEPS
    for step, weights in enumerate(server.received):
        expected = dict(merged(layout, tiny_base, step, kind).named_parameters())
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[name], expected[name]) for name in expected)
    moved = [name for name, tensor in server.received[1].items() if not torch.equal(tensor, server.received[0][name])]
    assert moved
    # The server samples by the weights that it was given, so the two probabilities nearly agree at every step.
    assert read_metrics(layout.metrics)["sampler_mismatch"].between(0, MISMATCH[dtype]).all()
    assert not list(tmp_path.glob("spectra-weights-*"))


def other_vocabulary(server: StandIn) -> None:
    server.shift = 1


def raw_probabilities(server: StandIn) -> None:
    assert server.info is not None
    server.info["model_config"]["logprobs_mode"] = "raw_logprobs"


def closed(server: StandIn) -> None:
    server.info = None


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (other_vocabulary, "has a different vocabulary, that of"),
        (raw_probabilities, "start it with --logprobs-mode processed_logprobs"),
        (closed, "answers /server_info with 404: Not Found; start one with"),
    ],
)
@pytest.mark.usefixtures("without_vllm")
def test_a_server_that_does_not_suit_is_refused(fault: Callable[[StandIn], None], said: str, server: StandIn) -> None:
    with listening(server) as url:
        assert connect(server.base, url).model == "stand-in"
        fault(server)
        with pytest.raises(EngineError, match=said):
            connect(server.base, url)


@pytest.mark.usefixtures("without_vllm")
def test_another_model_is_refused(server: StandIn, tmp_path: Path) -> None:
    other = make_base(tmp_path / "other", hidden=64)
    with (
        listening(server) as url,
        pytest.raises(EngineError, match="a different model, .*: hidden_size is 32 there and 64"),
    ):
        connect(other, url)


@pytest.mark.usefixtures("without_vllm")
def test_raw_probabilities_suit_where_nothing_is_corrected_by_them(server: StandIn) -> None:
    raw_probabilities(server)
    with listening(server) as url:
        connect(server.base, url, corrects=False)


@pytest.mark.usefixtures("without_vllm")
def test_a_server_that_lost_the_weights_is_not_sampled_from(server: StandIn) -> None:
    weights = dict(server.model.named_parameters())
    with listening(server) as url:
        client = connect(server.base, url)
        client.update_named_params([], iter(weights.items()))
        assert len(client.generate([[2, 3]], n=2, max_tokens=2)["completion_ids"]) == 2
        server.version = "default"  # as after a restart
        with pytest.raises(EngineError, match="lost this step's weights"):
            client.generate([[2, 3]])


@pytest.mark.usefixtures("without_vllm")
def test_what_the_server_says_of_weights_that_it_cannot_load_is_passed_on(server: StandIn) -> None:
    with listening(server) as url:
        client = connect(server.base, url)
        with pytest.raises(EngineError, match="500: Worker failed with error 'unknown weights'; the server needs"):
            client.update_named_params([], iter({"strange": torch.zeros(1)}.items()))


def test_weights_are_written_in_files_of_a_bounded_size(tmp_path: Path) -> None:
    weights = {f"layer.{number}": torch.full((4, 4), float(number)) for number in range(5)}
    write_weights(iter(weights.items()), tmp_path, file_bytes=2 * 4 * 16)
    files = sorted(tmp_path.iterdir())
    assert [len(load_file(file)) for file in files] == [2, 2, 1]
    found = {name: tensor for file in files for name, tensor in load_file(file).items()}
    assert all(torch.equal(found[name], weights[name]) for name in weights)


def test_weights_are_copied_before_the_iterator_puts_back_what_was_there(tmp_path: Path) -> None:
    weight = torch.ones(2, 2)

    def merging() -> Iterator[tuple[str, torch.Tensor]]:
        weight.add_(1)
        yield "weight", weight
        weight.sub_(1)

    write_weights(merging(), tmp_path)
    assert torch.equal(load_file(tmp_path / "00000.safetensors")["weight"], torch.full((2, 2), 2.0))


def test_server_mode_too_needs_vllm_beside_the_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="needs vLLM"):
        rollout_arguments(RolloutRecipe(engine="vllm", mode="server"))
