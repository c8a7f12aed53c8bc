"""Benchmarks by name."""

import pytest

from spectra.errors import UsageError
from spectra.training.data.sources.benchmarks import STUDY, benchmark_source, benchmarks, find_benchmark
from spectra.training.data.sources.source import Source


def test_the_study_s_six_are_there_with_its_samples() -> None:
    assert {name: find_benchmark(name).samples for name in STUDY} == {
        "aime24": 32,
        "aime25": 32,
        "amc23": 32,
        "math500": 4,
        "minerva": 4,
        "hmmt25": 32,
    }


def test_a_benchmark_names_its_source() -> None:
    assert benchmark_source("minerva") == Source(
        "math-ai/minervamath", split="test", prompt="question", answer="answer"
    )
    assert {benchmark_source(name).kind for name in benchmarks()} == {"dataset"}


@pytest.mark.parametrize(
    ("name", "hint"), [("aime2024", "did you mean 'aime24'"), ("arc", "choose among aime24, aime25")]
)
def test_an_unknown_benchmark(name: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        find_benchmark(name)
