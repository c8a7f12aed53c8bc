import math

import numpy as np
import pandas as pd
import pytest

from spectra.figures.style import formats


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "–"), (math.nan, "–"), (pd.NA, "–"), (np.float64("nan"), "–"), (0, "0"), (0.0, "0"), (40.0, "40"),
        (np.int64(7), "7"), (-0.5, "−0.5"), (1234.56, "1,235"), (2.1e-4, "2.1×10⁻⁴"), (3.25e9 + 0.5, "3.25×10⁹"),
        (math.inf, "∞"), (-math.inf, "−∞"), ("start", "start"),
    ],
)  # fmt: skip
def test_numbers(value: object, written: str) -> None:
    assert formats.number(value) == written


def test_unknown_verdicts_are_serious_and_bookkeeping_is_a_warning() -> None:
    assert formats.tone("something_new") == "bad"
    assert formats.tone("wrong_base") == formats.tone("merge_drift") == "warn"
    assert formats.sign("healthy") != formats.sign("reward_collapsed")


def test_markdown_keeps_one_line() -> None:
    assert formats.markdown("a\n# b") == "a \\# b"
