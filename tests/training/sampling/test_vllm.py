"""vLLM behind the generator's interface: what it is asked, and, where it is installed, what it answers."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer

from spectra.commands.eval import EvalOptions, evaluate
from spectra.errors import MissingDependencyError, UnsupportedMethodError
from spectra.runs.evaluations import problem_outcomes
from spectra.runs.layout import RunLayout
from spectra.training.embedded import WEIGHTS
from spectra.training.loop.run import train
from spectra.training.recipe.recipe import Recipe
from spectra.training.sampling import vllm
from spectra.training.sampling.transformers import Completion, Sampling
from spectra.training.sampling.vllm import VLLMGenerator
from tests.requirements import needs

Maker = Callable[..., Recipe]


class Engine:
    """Answers every prompt with its own last token and the end, or cut off."""

    def __init__(self, **settings: Any) -> None:
        self.settings, self.asked = settings, []

    def generate(self, prompts: list[dict[str, list[int]]], settings: list[Any], *, use_tqdm: bool) -> list[Any]:
        self.asked += list(zip(prompts, settings, strict=True))
        return [SimpleNamespace(outputs=[self._drawn(p, s, n) for n in range(s.n)]) for p, s in self.asked]

    def _drawn(self, prompt: dict[str, list[int]], settings: Any, number: int) -> Any:
        last = prompt["prompt_token_ids"][-1]
        ended = [last, *settings.stop_token_ids[:1]]
        return SimpleNamespace(
            token_ids=ended if number == 0 else [last] * settings.max_tokens,
            finish_reason="stop" if number == 0 else "length",
        )


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("vllm")
    module.LLM = Engine  # type: ignore[attr-defined]
    module.SamplingParams = SimpleNamespace  # type: ignore[attr-defined]
    # Not among the modules: TRL would look for the rest of it.
    monkeypatch.setattr(vllm, "import_module", {"vllm": module}.get)


@pytest.mark.usefixtures("stand_in")
def test_it_is_asked_in_tokens_and_answers_in_completions() -> None:
    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS)
    generator = VLLMGenerator(WEIGHTS, tokenizer, dtype="float32", memory=0.5)
    found = generator.generate(["1+2=", "3+4="], Sampling(2, 0.7, 0.9, 3, seed=5))
    assert found == [[Completion("=", 2, True), Completion("===", 3, False)]] * 2
    engine: Any = generator._engine
    (prompt, first), (_, second) = engine.asked
    assert prompt == {"prompt_token_ids": tokenizer("1+2=")["input_ids"]}
    assert (first.n, first.temperature, first.top_p, first.max_tokens) == (2, 0.7, 0.9, 3)
    assert first.stop_token_ids == [tokenizer.eos_token_id]
    assert first.seed != second.seed
    assert engine.settings["dtype"] == "float32"
    assert engine.settings["gpu_memory_utilization"] == 0.5


@pytest.mark.usefixtures("stand_in")
def test_an_evaluation_runs_on_it(recipe_for: Maker, tmp_path: Path, easy_reward: None) -> None:
    run = train(recipe_for(snapshots={"every": 2}, evaluation={"every": None}), tmp_path / "run", quiet=True)
    done = evaluate(run, EvalOptions(generator="vllm", problems=3, k=2))
    assert done.summaries[0]["settings"]["generator"] == "vllm"
    assert done.summaries[0]["finished_share"] == 0.5
    assert "batch_size" not in done.summaries[0]["settings"]
    file = RunLayout(run).evaluation("carry_addition-heldout", 2)
    assert [len(marks) for marks in problem_outcomes(file).values()] == [2, 2, 2]


@pytest.mark.usefixtures("stand_in")
def test_a_method_without_weights_of_its_own_needs_the_other_generator(
    recipe_for: Maker, tmp_path: Path, easy_reward: None
) -> None:
    recipe = recipe_for(method={"name": "beft"}, snapshots={"every": 2}, evaluation={"every": None})
    run = train(recipe, tmp_path / "run", quiet=True)
    with pytest.raises(UnsupportedMethodError, match="use --generator hf"):
        evaluate(run, EvalOptions(generator="vllm", problems=3, k=2))


def test_without_vllm_its_absence_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(MissingDependencyError, match="or use --generator hf"):
        VLLMGenerator(WEIGHTS, None, dtype="float32", memory=0.5)


@pytest.mark.filterwarnings("default")  # vLLM's own deprecations are not ours to mend
@needs("vllm")
def test_vllm_itself_answers_as_transformers_does() -> None:
    from transformers import AutoModelForCausalLM

    from spectra.training.data.carry_addition import problems
    from spectra.training.sampling.transformers import ModelGenerator

    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS)
    prompts = [problem.prompt for problem in problems("control")]
    greedy = Sampling(1, 0.0, 1.0, 8, 0)
    generator = VLLMGenerator(WEIGHTS, tokenizer, dtype="float32", memory=0.5)
    found = generator.generate(prompts, greedy)
    expected = ModelGenerator(AutoModelForCausalLM.from_pretrained(WEIGHTS), tokenizer).generate(prompts, greedy)
    assert sum(a == b for a, b in zip(found, expected, strict=True)) >= len(prompts) - 1  # a tie may fall either way
    drawn = Sampling(8, 1.0, 1.0, 8, 3)
    unsure = [problem.prompt for problem in problems("eval")[:8]]
    first = generator.generate(unsure, drawn)
    assert first == generator.generate(unsure, drawn)
    assert first != generator.generate(unsure, Sampling(8, 1.0, 1.0, 8, 4))
    assert any(len({row.text for row in rows}) > 1 for rows in first)
