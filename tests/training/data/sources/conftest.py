"""Nothing that one test read is remembered in the next."""

import pytest

from spectra.training.data.sources import reading


@pytest.fixture(autouse=True)
def _forget() -> None:
    reading._read.cache_clear()
