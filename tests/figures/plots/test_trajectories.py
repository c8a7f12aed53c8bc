import numpy as np
import pytest
from matplotlib.axes import Axes

from spectra.errors import UsageError
from spectra.figures import learning_curves, trajectory
from spectra.figures.data.summaries import by_step, curve, lifts
from spectra.figures.style.style import figure_of, new_figure
from spectra.runs.tables import Tables, empty
from tests.figures.synthetic_tables import Spec, make


def labelled(ax: Axes) -> dict[str, np.ndarray]:
    return {line.get_label(): line.get_xydata() for line in ax.lines if not line.get_label().startswith("_")}


def test_panels_draw_the_summaries(pissa: Tables) -> None:
    size, rank, direction, reward, entropy = trajectory(pissa)
    np.testing.assert_array_equal(size.lines[0].get_xydata(), by_step(pissa, "relative_fro")[["step", "median"]])
    stable = by_step(pissa, "stable_rank")[["step", "median"]]
    np.testing.assert_array_equal(labelled(rank)["stable rank (median)"], stable)
    left = lifts(pissa, ["step"]).query("side == 'left' and subspace == 'principal'")
    np.testing.assert_array_equal(labelled(direction)["left"], left[["step", "lift"]])
    np.testing.assert_array_equal(labelled(reward)["reward"], curve(pissa, "reward")[["step", "smooth"]])
    np.testing.assert_array_equal(reward.lines[0].get_ydata(), curve(pissa, "reward")["value"])
    np.testing.assert_array_equal(labelled(reward)["eval accuracy"][:, 0], [16, 32, 48, 64])
    assert "entropy" in labelled(entropy)


def test_panels_share_the_step_axis(lora: Tables) -> None:
    axes = trajectory(lora)
    assert len({ax.get_xlim() for ax in axes}) == 1
    assert axes[-1].get_xlabel() == "training step"
    assert all(ax.get_ylabel() for ax in axes)


def test_chance_band_is_the_wider_side(lora: Tables) -> None:
    direction = trajectory(lora)[2]
    means = lifts(lora, ["step"]).query("subspace == 'principal'")
    [band] = [c for c in direction.collections if c.get_label() == "chance ± 2 sd"]
    assert band.get_paths()[0].vertices[:, 1].max() == pytest.approx(1 + 2 * means["sd"].max())
    low, high = direction.get_ylim()
    assert low <= 0.9
    assert high >= 1.1


def test_panels_without_data_say_so(untrained: Tables) -> None:
    texts = [" ".join(text.get_text() for text in ax.texts) for ax in trajectory(untrained)]
    assert texts[0] == ""
    assert "no rank" in texts[1]
    assert "no direction" in texts[2]
    assert "no reward was logged" in texts[3]
    assert "no entropy was logged" in texts[4]


def test_tables_without_any_row_say_so() -> None:
    nothing = Tables(*(empty(name) for name in ("modules", "projection", "profile", "spectrum", "series")))
    assert all(ax.texts for ax in trajectory(nothing))


def test_a_single_snapshot_has_marks() -> None:
    axes = trajectory(make(Spec(steps=(64,))))
    assert axes[0].lines[0].get_marker() == "o"
    assert len(axes[0].lines[0].get_xydata()) == 1
    assert "chance ± 2 sd" in [text.get_text() for text in axes[2].get_legend().get_texts()]


def test_it_draws_into_five_given_axes_only(lora: Tables) -> None:
    figure = new_figure(height=7.0)
    mine = list(figure.subplots(5, 1))
    assert trajectory(lora, axes=mine) == mine
    assert figure_of(mine[0]) is figure
    with pytest.raises(UsageError, match="5 axes, got 2"):
        trajectory(lora, axes=mine[:2])


def test_learning_curves_have_one_line_a_run(lora: Tables, pissa: Tables, untrained: Tables) -> None:
    ax = learning_curves({"lora": lora, "pissa": pissa, "silent": untrained})
    drawn = labelled(ax)
    assert list(drawn) == ["lora", "pissa", "silent (none logged)"]
    np.testing.assert_array_equal(drawn["pissa"], curve(pissa, "reward")[["step", "smooth"]])
    assert ax.get_ylabel() == "reward (mean of 3 steps)"


def test_learning_curves_of_nothing_say_so(untrained: Tables) -> None:
    ax = learning_curves({"silent": untrained})
    assert ax.texts[0].get_text() == "no run logged a reward"


def test_the_rounding_floor_is_drawn_where_snapshots_were_rounded(lora: Tables, whole: Tables) -> None:
    assert "rounding floor" not in labelled(trajectory(lora)[0])
    np.testing.assert_allclose(labelled(trajectory(whole)[0])["rounding floor"][:, 1], 1.5e-3)


def test_intervals_of_the_mean_stand_at_its_snapshots(whole: Tables) -> None:
    bars = [c for c in trajectory(whole)[2].collections if hasattr(c, "get_segments")]
    ends = bars[0].get_segments()
    assert [segment[0][0] for segment in ends] == [16, 32, 48, 64]
    assert all(tuple(segment[:, 1]) == (0.97, 1.03) for segment in ends)
