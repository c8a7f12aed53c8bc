"""Benchmarks by name: the source of their problems, and the completions per problem in the study."""

from functools import cache
from pathlib import Path

import yaml
from pydantic import Field

from spectra.config import Section, nearest
from spectra.errors import UsageError
from spectra.training.data.sources.source import Source

# The six of the study, over which its averages are taken.
STUDY = ("aime24", "aime25", "amc23", "math500", "minerva", "hmmt25")


class Benchmark(Section):
    """One benchmark.

    Attributes
    ----------
    title
        Name in papers.
    source
        Hub id, or ``package:`` with the name of an installed package.
    split, prompt, answer
        Split and columns of a hub set.
    samples
        Default number of completions per problem.
    """

    title: str
    source: str
    split: str = "test"
    prompt: str = "prompt"
    answer: str = "answer"
    samples: int = Field(ge=1)


@cache
def benchmarks() -> dict[str, Benchmark]:
    """Return every benchmark by name."""
    text = Path(__file__).with_name("benchmarks.yaml").read_text(encoding="utf-8")
    return {name: Benchmark.model_validate(value) for name, value in yaml.safe_load(text).items()}


def find_benchmark(name: str) -> Benchmark:
    """Return a benchmark.

    Raises
    ------
    UsageError
        If there is none of that name.
    """
    known = benchmarks()
    if name in known:
        return known[name]
    near = nearest(name, list(known))
    hint = f"did you mean {near!r}" if near else f"choose among {', '.join(known)}"
    raise UsageError(f"no benchmark {name!r}", hint=f"{hint}, or pass a file or a dataset to --data")


def benchmark_source(name: str) -> Source:
    """Return the source of a benchmark's problems; raises as :func:`find_benchmark`."""
    found = find_benchmark(name)
    return Source(found.source, split=found.split, prompt=found.prompt, answer=found.answer)
