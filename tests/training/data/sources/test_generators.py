"""Generated problems: the generator's own scorer decides, and held-out ones are others."""

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from spectra.errors import MissingDependencyError, RecipeError
from spectra.training.data.dataset import all_heldout_problems, training_problems
from spectra.training.data.sources.reading import digest, read
from spectra.training.data.sources.source import Source
from spectra.training.recipe.recipe import Recipe
from spectra.training.recipe.task import TaskRecipe
from spectra.training.rewards import rewards, sandbox
from spectra.training.rewards.rewards import boxed_answer_reward
from tests.requirements import needs

# A generator in the manner of reasoning-gym: which number is even? Any even one is right.
PACKAGE = """
import random
from reasoning_gym import factory

class Even:
    def __init__(self, size=10, seed=0, most=1000):
        assert most > 0, "most must be positive"
        self.size, self.seed, self.most = size, seed, most
    def __getitem__(self, index):
        if index >= self.size:
            raise IndexError
        number = random.Random(f"{self.seed}/{index}").randrange(self.most)
        return {"question": f"An even number above {number}?", "answer": None, "metadata": {"above": number}}
    def score_answer(self, answer, entry):
        return 1.0 if int(answer) % 2 == 0 and int(answer) > entry["metadata"]["above"] else 0.01

class Forgetful(Even):
    def __getitem__(self, index):
        return {**super().__getitem__(index), "answer": "2"}
    def score_answer(self, answer, entry):
        return 0.5

factory.DATASETS.update(even=Even, forgetful=Forgetful)

def create_dataset(name, **options):
    return factory.DATASETS[name](**options)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A stand-in for reasoning-gym, which the checking process imports too."""
    where = tmp_path / "lib" / "reasoning_gym"
    where.mkdir(parents=True)
    (where / "factory.py").write_text("DATASETS = {}\n")
    (where / "__init__.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(str(where.parent))
    for name in ("reasoning_gym", "reasoning_gym.factory"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    end()
    yield
    end()
    for name in ("reasoning_gym", "reasoning_gym.factory"):
        sys.modules.pop(name, None)


def end() -> None:
    """Forget what was checked, and end the checking processes: they keep the package that they imported."""
    rewards._checked.cache_clear()
    for own in sandbox._OWN:
        own.end()
    sandbox._OWN.clear()


def task(**section: object) -> TaskRecipe:
    value = {"name": "even", "data": "reasoning_gym:even", "heldout": "reasoning_gym:even", **section}
    return Recipe.model_validate({"task": value}).task


@pytest.mark.usefixtures("package")
def test_any_answer_that_the_scorer_gives_full_marks_is_right() -> None:
    problem = read(Source("reasoning_gym:even", size=1))[0]
    above = int(problem.prompt.rstrip("?").rpartition(" ")[2])  # type: ignore[union-attr]
    even = above + 2 - above % 2
    answers = [str(even), str(even + 2), rf"\text{{{even}}}", str(even + 1), str(above - above % 2 - 2), "many", ""]
    earned = boxed_answer_reward([rf"\boxed{{{answer}}}" for answer in answers], [problem.answer] * len(answers))
    assert earned == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.usefixtures("package")
def test_size_seed_and_options_decide_the_problems() -> None:
    source = Source("reasoning_gym:even", size=20, options='{"most": 1000000}')
    assert len(read(source)) == 20
    assert digest(source) == digest(Source("reasoning_gym:even", size=20, options='{"most": 1000000}'))
    assert digest(source) != digest(Source("reasoning_gym:even", size=20, options='{"most": 1000000}', seed=1))
    assert len(read(Source("reasoning_gym:even", size=20, options='{"most": 1}'))) == 1


@pytest.mark.usefixtures("package")
def test_held_out_problems_are_none_of_those_to_train_on() -> None:
    generated = task(generator={"size": 300, "options": {"most": 400}})
    trained = {problem.prompt for problem in training_problems(generated)}
    held_out = {problem.prompt for problem in all_heldout_problems(generated)}
    assert len(held_out) > 20
    assert not trained & held_out


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("evn", "{}", "reasoning-gym has no generator 'evn'; did you mean 'even'"),
        ("even", '{"mst": 1}', r"task\.generator\.options: even refuses its options \(.*'mst'"),
        ("even", '{"most": 0}', "most must be positive"),
        ("forgetful", "{}", "forgetful does not accept its own answer"),
    ],
)
def test_generators_that_cannot_be_used(name: str, options: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        read(Source(f"reasoning_gym:{name}", options=options))


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'spectra-rlvr\[tasks\]'"):
        read(Source("reasoning_gym:chain_sum"))


@needs("reasoning_gym")
def test_reasoning_gym_itself_generates_and_scores() -> None:
    assert find_spec("reasoning_gym") is not None
    chain = read(Source("reasoning_gym:chain_sum", size=5, seed=3, options='{"min_terms": 2, "max_terms": 3}'))
    assert len({problem.prompt for problem in chain}) == 5
    import json

    for problem in chain:
        answer = json.loads(problem.answer.removeprefix(rewards.GENERATED))["entry"]["answer"]
        completions = [rf"\boxed{{{answer}}}", rf"\boxed{{{int(answer) + 1}}}"]
        assert boxed_answer_reward(completions, [problem.answer] * 2) == [1.0, 0.0]
    countdown = read(Source("reasoning_gym:countdown", size=1))[0]
    expression = json.loads(countdown.answer.removeprefix(rewards.GENERATED))["entry"]["metadata"]["expression"]
    assert boxed_answer_reward([rf"\boxed{{{expression}}}", r"\boxed{1}"], [countdown.answer] * 2) == [1.0, 0.0]
