import dataclasses

import numpy as np
import pytest
from matplotlib.axes import Axes

from spectra.errors import UsageError
from spectra.figures import convergence
from spectra.runs.tables import Tables
from tests.figures.synthetic_tables import Spec, make


def labelled(ax: Axes) -> dict[str, np.ndarray]:
    return {line.get_label(): line.get_xydata() for line in ax.lines}


def test_panels_draw_medians_and_their_nulls(whole: Tables) -> None:
    cosine, subspace, line, start = map(labelled, convergence(whole))
    rows = whole.trajectory.groupby("step").median(numeric_only=True)
    np.testing.assert_allclose(cosine["ΔW"][:, 1], rows["cos_final"].dropna())
    np.testing.assert_allclose(cosine["first direction"][:, 1], rows["rank1_cos_final"].dropna())
    np.testing.assert_allclose(cosine["random walk"][:, 1], np.sqrt(cosine["ΔW"][:, 0] / 64))
    np.testing.assert_allclose(subspace["left"][:, 1], rows["subspace_final_left"].dropna())
    np.testing.assert_allclose(subspace["_chance"][:, 1], rows["expected_subspace_right"])
    np.testing.assert_allclose(line["random walk"][:, 1], 0.8)
    assert set(start) == {"right", "chance"}


def test_every_panel_shows_the_whole_range(whole: Tables) -> None:
    assert {ax.get_ylim() for ax in convergence(whole)} == {(0.0, 1.04)}
    turned = whole.trajectory.assign(cos_final=-whole.trajectory["cos_final"])
    assert convergence(dataclasses.replace(whole, trajectory=turned))[0].get_ylim()[0] < -0.9


def test_one_snapshot_has_no_random_walk() -> None:
    axes = convergence(make(Spec(steps=(64,), layers=1, deep=(64,))))
    assert "random walk" not in labelled(axes[0])
    assert axes[0].get_xlim() == (63, 65)


def test_an_empty_table_says_so(lora: Tables) -> None:
    assert all("one snapshot" in ax.texts[0].get_text() for ax in convergence(lora))
    with pytest.raises(UsageError, match="needs 4 axes, got 3"):
        convergence(lora, axes=convergence(lora)[:3])
