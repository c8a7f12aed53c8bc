import dataclasses

import numpy as np
import pandas as pd
import pytest

from spectra.figures import spectral_map
from spectra.figures.data.snapshots import map_grid
from spectra.figures.plots.maps import map_reach, map_steps
from spectra.runs.tables import Tables


def test_the_grid_is_the_mean_share_in_units_of_chance(whole: Tables) -> None:
    ax = spectral_map(whole)
    drawn = np.asarray(ax.images[0].get_array())
    rows = whole.map.query("step == 64 and bin_left == 1 and bin_right == 6")
    assert drawn.shape == (8, 8)
    assert drawn[1, 6] == pytest.approx(rows["share"].mean() / rows["expected"].mean())
    assert drawn[7, 7] > 1.5 > 0.8 > drawn[0, 0]


def test_chance_is_white_and_noise_stays_pale(whole: Tables) -> None:
    norm = spectral_map(whole).images[0].norm
    assert norm(1.0) == pytest.approx(0.5)
    assert norm.vmax >= 2.0
    assert norm.vmin * norm.vmax == pytest.approx(1.0)


def test_one_reach_makes_steps_comparable(whole: Tables) -> None:
    norm = spectral_map(whole, step=32, reach=8.0).images[0].norm
    assert (norm.vmin, norm.vmax) == (1 / 8, 8.0)
    assert map_reach(whole, 64) == pytest.approx(max(map_grid(whole, 64)[0].max(axis=None), 2.0))
    assert map_reach(whole, 7) == 2.0


def test_blocks_away_from_chance_bear_their_sign(whole: Tables) -> None:
    more, less = (marks.get_offsets() for marks in spectral_map(whole).collections)
    assert [15 / 16, 15 / 16] in np.round(more, 9).tolist()
    assert [1 / 16, 1 / 16] in np.round(less, 9).tolist()
    noise = whole.map.assign(share=whole.map["expected"])
    drawn = spectral_map(dataclasses.replace(whole, map=noise)).collections
    assert all(len(marks.get_offsets()) == 0 for marks in drawn)


def test_axes_say_sides_and_directions(whole: Tables) -> None:
    ax = spectral_map(whole, step=32)
    assert "right" in ax.get_xlabel()
    assert "left" in ax.get_ylabel()
    assert ax.images[0].get_extent() == [0, 1, 1, 0]
    assert "mean of 28" in ax.images[0].colorbar.ax.get_ylabel()


def test_matrices_with_fewer_bins_are_left_out(whole: Tables) -> None:
    small = whole.map["module"].str.endswith("k_proj") & (whole.map[["bin_left", "bin_right"]].max(axis=1) > 3)
    grid, matrices = map_grid(dataclasses.replace(whole, map=whole.map[~small]), 64)
    assert matrices == 24
    assert grid.shape == (8, 8)


def test_empty_blocks_are_drawn_at_the_end_of_the_scale(whole: Tables) -> None:
    shares = whole.map["share"].where(whole.map["bin_left"] > 0, 0.0)
    image = spectral_map(dataclasses.replace(whole, map=whole.map.assign(share=shares))).images[0]
    assert np.asarray(image.get_array())[0].max() == pytest.approx(image.norm.vmin)


def test_an_empty_table_says_so(lora: Tables) -> None:
    assert "no map" in spectral_map(lora).texts[0].get_text()
    assert map_steps(lora) == []
    undefined = pd.DataFrame({"step": [1], "module": ["m"], "bin_left": [0], "bin_right": [0], "share": [np.nan]})
    assert map_steps(dataclasses.replace(lora, map=undefined.assign(expected=1.0))) == []
