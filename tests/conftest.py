"""What every test shares: one thread, a cache of its own, and benchmarks only when asked for."""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# A limit on the time of an example is one on the machine's other work.
hypothesis.settings.register_profile("spectra", deadline=None)
hypothesis.settings.load_profile("spectra")

# Before torch is imported: two BLAS threads on two shared cores are slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-benchmarks", action="store_true", help="run tests/benchmarks")
    parser.addoption("--renew-help", action="store_true", help="rewrite tests/commands/help/*.txt")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    benchmarks = Path(__file__).parent / "benchmarks"
    return True if benchmarks in collection_path.parents and not config.getoption("--run-benchmarks") else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with slow tests first: of two workers that take file after file, none waits long for the other."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep decomposed bases of tests out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPECTRA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def one_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the first figure of a page and leave out the others: drawing takes most of the time of a command."""
    from spectra.figures.report import comparison, gallery, report

    def first(figures: Any) -> Any:
        return lambda *tables: islice(figures(*tables), 1)

    for name in ("run_figures", "comparison_figures"):
        figures = first(getattr(gallery, name))
        for module in (comparison, gallery, report):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, figures)
