import math

import numpy as np
import pandas as pd
import pytest

from spectra.figures import pair_cosines
from tests.figures.deep_tables import pair_rows

RUNS = ["lora", "full", "pissa"]


def test_cosines_are_means_over_matrices_and_symmetric() -> None:
    pairs = pair_rows(RUNS, ["a", "b"])
    pairs.loc[0, "cosine"] = 0.3
    drawn = np.asarray(pair_cosines(pairs, RUNS).images[0].get_array())
    assert drawn[0, 1] == drawn[1, 0] == pytest.approx((0.3 + 0.2 / 3) / 2)
    assert np.isnan(np.diag(drawn)).all()


def test_z_is_that_of_the_mean_of_independent_matrices() -> None:
    pairs = pair_rows(RUNS[:2], ["a", "b"]).assign(cosine=[0.2, 0.1], z_cosine=[4.0, 4.0])
    z = 0.15 / (math.hypot(0.05, 0.025) / 2)
    assert [text.get_text() for text in pair_cosines(pairs, RUNS[:2]).texts] == [f"0.15\nz +{z:.0f}"] * 2


def test_zero_is_white_whatever_the_sign() -> None:
    image = pair_cosines(pair_rows(RUNS, ["a"]).assign(cosine=-0.4), RUNS).images[0]
    assert image.norm(0.0) == pytest.approx(0.5)
    assert (image.norm.vmin, image.norm.vmax) == (-0.4, 0.4)


def test_many_runs_have_colors_alone() -> None:
    runs = [f"run-{i}" for i in range(20)]
    ax = pair_cosines(pair_rows(runs, ["a"]), runs)
    assert not ax.texts
    assert [tick.get_text() for tick in ax.get_yticklabels()] == runs


def test_runs_that_are_not_shown_and_nothing_in_common() -> None:
    pairs = pair_rows([*RUNS, "other"], ["a"])
    assert pair_cosines(pairs, RUNS).images[0].get_array().shape == (3, 3)
    nothing = pair_cosines(pd.DataFrame(columns=pairs.columns), RUNS)
    assert "no two runs" in nothing.texts[0].get_text()
