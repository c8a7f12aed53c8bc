import dataclasses
import math

import numpy as np
import pytest

from spectra.errors import UsageError
from spectra.figures import coordinates
from spectra.figures.plots.masks import TITLES
from spectra.figures.style.style import figure_of
from spectra.runs.tables import Tables


def test_observed_and_expected_are_means_by_kind(whole: Tables) -> None:
    axes = dict(zip(TITLES, coordinates(whole), strict=True))
    rows = whole.coordinates.query("step == 64").merge(whole.modules, on=["step", "module"])
    kinds = [tick.get_text() for tick in axes["unchanged_bf16"].get_yticklabels()]
    assert kinds[0] == "q_proj"
    for mask in ("principal", "low_magnitude", "principal_not_low"):
        shares = rows.assign(e=rows[f"expected_overlap_{mask}"] / rows[f"density_{mask}"]).groupby("kind")
        observed, expected = axes[mask].lines[:2]
        np.testing.assert_allclose(observed.get_xdata(), shares[f"enrichment_{mask}"].mean()[kinds])
        np.testing.assert_allclose(expected.get_xdata(), shares["e"].mean()[kinds])
        assert observed.get_ydata().tolist() == list(range(len(kinds)))
    unchanged = rows.groupby("kind")["unchanged_bf16"].mean()[kinds]
    np.testing.assert_allclose(axes["unchanged_bf16"].lines[0].get_xdata(), unchanged)


def test_the_band_is_two_standard_deviations_of_the_mean(whole: Tables) -> None:
    ax = dict(zip(TITLES, coordinates(whole), strict=True))["low_magnitude"]
    rows = whole.coordinates.query("step == 64 and module.str.endswith('k_proj')")
    sd = (rows["overlap_low_magnitude"] - rows["expected_overlap_low_magnitude"]) / rows["z_overlap_low_magnitude"]
    half = 2 * math.sqrt(((sd / rows["density_low_magnitude"]) ** 2).sum()) / len(rows)
    assert ax.patches[1].get_width() == pytest.approx(2 * half)
    assert ax.patches[1].get_x() + half == pytest.approx(4.6)


def test_the_size_of_a_mask_is_marked_and_the_legend_says_that_it_is_no_null(whole: Tables) -> None:
    axes = coordinates(whole)
    assert [len(ax.lines) for ax in axes] == [2, 3, 3, 3]
    assert set(axes[1].lines[2].get_xdata()) == {1.0}
    [legend] = figure_of(axes[0]).legends
    assert "noise of the same norm, same cast" in [text.get_text() for text in legend.get_texts()]


def test_every_point_is_inside_its_panel(whole: Tables) -> None:
    for ax in coordinates(whole):
        low, high = ax.get_xlim()
        values = np.concatenate([line.get_xdata() for line in ax.lines])
        assert low < values.min() < values.max() < high


def test_a_null_without_z_has_no_band(whole: Tables) -> None:
    rows = whole.coordinates.assign(z_overlap_principal=math.nan)
    ax = dict(zip(TITLES, coordinates(dataclasses.replace(whole, coordinates=rows)), strict=True))["principal"]
    assert not any(patch.get_width() > 0 for patch in ax.patches)
    assert len(ax.lines[0].get_xdata()) == 7


def test_an_earlier_step_can_be_asked_for(whole: Tables) -> None:
    first, last = (coordinates(whole, step=step)[0].lines[0].get_xdata() for step in (32, None))
    assert np.all(first > last)


def test_an_empty_table_says_so(lora: Tables) -> None:
    assert all("not computed" in ax.texts[0].get_text() for ax in coordinates(lora))
    with pytest.raises(UsageError, match="needs 4 axes, got 1"):
        coordinates(lora, axes=coordinates(lora)[:1])
