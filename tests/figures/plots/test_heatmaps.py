import math

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from spectra.figures import heatmap
from spectra.figures.data.summaries import grid
from spectra.figures.style.style import figure_of
from spectra.runs.tables import Tables
from tests.figures.synthetic_tables import Spec, make, principal


def test_values_ticks_and_color_bar(lora: Tables) -> None:
    ax = heatmap(lora)
    cells = grid(lora, "relative_fro", step=64)
    np.testing.assert_array_equal(np.asarray(ax.images[0].get_array()), cells.to_numpy())
    assert [tick.get_text() for tick in ax.get_xticklabels()] == list(cells.columns)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["0", "1", "2", "3"]
    assert ax.images[0].colorbar.ax.get_ylabel() == "‖ΔW‖ / ‖W‖ (Frobenius)"
    assert len(ax.texts) == cells.size


def test_missing_cells_are_hatched(full: Tables) -> None:
    ax = heatmap(full)
    cells = grid(full, "relative_fro", step=64)
    hatched = [patch for patch in ax.patches if isinstance(patch, Rectangle) and patch.get_hatch()]
    assert len(hatched) == cells.isna().sum().sum() > 0
    assert ax.get_yticklabels()[0].get_text() == "other"


@pytest.mark.parametrize("fixture", ["lora", "pissa", "full"])
def test_lift_is_centered_at_chance(fixture: str, request: pytest.FixtureRequest) -> None:
    ax = heatmap(request.getfixturevalue(fixture), metric="principal_lift", side="right")
    norm = ax.images[0].norm
    assert norm(1.0) == pytest.approx(0.5)
    assert norm(2.0) + norm(0.5) == pytest.approx(1.0)
    assert norm.vmax >= 2.0
    ticks = ax.images[0].colorbar.get_ticks()
    assert 1.0 in ticks
    assert "right share in\nfirst 10 % ÷ chance" == ax.images[0].colorbar.ax.get_ylabel()


def test_thirty_layers_have_colors_without_values() -> None:
    ax = heatmap(make(Spec(layers=30, steps=(8,))))
    assert ax.images[0].get_array().shape == (30, 7)
    assert not ax.texts
    assert figure_of(ax).get_size_inches()[1] > 5
    assert len(ax.get_yticks()) == 30


def test_small_cells_hold_the_sign_of_a_lift() -> None:
    ax = heatmap(make(Spec(layers=30, steps=(8,), left=principal)), metric="principal_lift")
    assert [text.get_text() for text in ax.texts] == ["+"] * 210
    ax = heatmap(make(Spec(layers=30, steps=(8,), left=principal)), metric="minor_lift")
    assert [text.get_text() for text in ax.texts] == ["−"] * 210


def test_eighty_layers_keep_their_ticks_apart() -> None:
    ax = heatmap(make(Spec(layers=80, steps=(8,), kinds=("k_proj",))))
    assert [tick.get_text() for tick in ax.get_yticklabels()][:3] == ["0", "3", "6"]


def test_values_over_decades_take_a_logarithmic_scale(lora: Tables) -> None:
    modules = lora.modules.copy()
    modules["relative_fro"] = modules["relative_fro"].where(modules["kind"] != "q_proj", 0.9)
    tables = Tables(modules, lora.projection, lora.profile, lora.spectrum, lora.series)
    norm = heatmap(tables).images[0].norm
    assert norm(math.sqrt(norm.vmin * norm.vmax)) == pytest.approx(0.5)


def test_zero_update_draws_norms_and_says_that_lifts_are_undefined(untrained: Tables) -> None:
    assert np.all(heatmap(untrained).images[0].get_array() == 0)
    ax = heatmap(untrained, metric="principal_lift")
    assert not ax.images
    assert "undefined at step 0" in ax.texts[0].get_text()


def test_a_single_matrix() -> None:
    ax = heatmap(make(Spec(steps=(8,), layers=1, kinds=("q_proj",), rank=1)), metric="stable_rank")
    assert ax.images[0].get_array().shape == (1, 1)
    assert ax.texts[0].get_text() == "1"
