import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection

from spectra.figures import cumulative, overlay, profile
from spectra.figures.data.profiles import cumulative_curve, profile_curve
from spectra.figures.style.style import new_axes
from spectra.runs.tables import Tables
from tests.figures.synthetic_tables import Spec, make


def words(ax: Axes) -> str:
    return " ".join(text.get_text() for text in ax.texts)


def legend(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def band(ax: Axes, label: str) -> np.ndarray:
    [found] = [c for c in ax.collections if isinstance(c, PolyCollection) and c.get_label() == label]
    return found.get_paths()[0].vertices


@pytest.mark.parametrize("side", ["left", "right"])
def test_profile_draws_update_base_and_chance(lora: Tables, side: str) -> None:
    ax = profile(lora, side=side)
    curve = profile_curve(lora, side)
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), curve[["position", "update"]])
    np.testing.assert_array_equal(ax.lines[1].get_xydata(), curve[["position", "base"]])
    assert set(ax.lines[2].get_ydata()) == {1.0}
    drawn = band(ax, "chance ± 2 sd")
    assert drawn[:, 1].max() == curve["null_high"].max()
    assert drawn[:, 1].min() == curve["null_low"].min()
    assert (drawn[:, 0].min(), drawn[:, 0].max()) == (0.0, 1.0)
    assert legend(ax) == ["ΔW (mean of 28)", "base W", "10–90 % of matrices", "chance ± 2 sd"]
    assert side in ax.get_xlabel()
    assert ax.get_xlim() == (0, 1)


def test_profile_is_logarithmic_only_where_values_span_decades(pissa: Tables) -> None:
    flat_base = make(Spec(steps=(8,)))
    flat_base.profile["base_share"] = flat_base.profile["expected"]
    assert profile(pissa, side="left").get_yscale() == "log"
    ax = profile(flat_base, side="left")
    assert ax.get_yscale() == "linear"
    low, high = ax.get_ylim()
    assert low <= 0.5
    assert high >= 1.5


def test_profile_draws_into_given_axes_at_a_given_step(lora: Tables) -> None:
    mine = new_axes()
    assert profile(lora, side="left", step=16, ax=mine) is mine
    np.testing.assert_array_equal(mine.lines[0].get_ydata(), profile_curve(lora, "left", 16)["update"])


def test_one_matrix_has_no_spread_and_no_count() -> None:
    ax = profile(make(Spec(steps=(8,), layers=1, kinds=("q_proj",), rank=1)), side="left")
    assert legend(ax) == ["ΔW", "base W", "chance ± 2 sd"]


def test_cumulative_draws_the_whole_norm(lora: Tables) -> None:
    ax = cumulative(lora, side="right")
    curve = cumulative_curve(lora, "right")
    for line, column in zip(ax.lines, ["update", "base", "expected"], strict=True):
        np.testing.assert_array_equal(line.get_xydata(), curve[["position", column]])
    outside = 100 * (1 - curve["update"].iloc[-1])
    assert f"outside W's span: {outside:.1f} %" in words(ax)
    assert ax.get_ylim() == (0, 1.02)


def test_square_matrices_have_nothing_outside() -> None:
    ax = cumulative(make(Spec(steps=(8,), kinds=("q_proj", "o_proj"))), side="left")
    assert "outside" not in words(ax)


@pytest.mark.parametrize("draw", [profile, cumulative])
def test_zero_update_is_said_in_words(untrained: Tables, draw) -> None:
    ax = draw(untrained, side="left")
    assert "no direction at step 0: ΔW = 0" in words(ax)
    assert not ax.lines


def test_only_vectors_is_said_in_words(full: Tables) -> None:
    norms = full.modules[full.modules["kind"] == "input_layernorm"]
    none = [full[name].iloc[:0] for name in ("projection", "profile", "spectrum")]
    ax = profile(Tables(norms, *none, full.series), side="left")
    assert "only vectors train" in words(ax)


def test_overlay_says_why_a_run_has_no_line(lora: Tables, untrained: Tables, vectors: Tables) -> None:
    ax = overlay({"lora": lora, "nothing": untrained, "norms": vectors}, side="right")
    assert legend(ax)[1:3] == ["nothing (ΔW = 0)", "norms (only vectors)"]


def test_overlay_has_one_line_a_run(lora: Tables, pissa: Tables, untrained: Tables) -> None:
    ax = overlay({"lora": lora, "nothing": untrained, "pissa": pissa}, side="left")
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), profile_curve(lora, "left")["update"])
    assert len(ax.lines[1].get_xydata()) == 0
    np.testing.assert_array_equal(ax.lines[2].get_ydata(), profile_curve(pissa, "left")["update"])
    assert legend(ax) == ["lora", "nothing (ΔW = 0)", "pissa", "chance ± 2 sd"]
    widest = pd.concat([profile_curve(run, "left") for run in (lora, pissa)])["null_high"].max()
    assert band(ax, "chance ± 2 sd")[:, 1].max() == pytest.approx(widest)


def test_overlay_of_nothing_is_said_in_words(untrained: Tables) -> None:
    assert "no run has an update" in words(overlay({"a": untrained}, side="right"))
