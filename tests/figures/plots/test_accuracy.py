import itertools

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from spectra.figures import accuracy_against_size
from spectra.figures.style.style import figure_of
from tests.figures.synthetic_tables import comparison

NAMES = [
    "full", "lora-r32-lr1e-5", "lora-r32-lr5e-5", "dora-r32", "adalora-r32", "rslora-r32", "milora", "vera", "ia3",
    "pissa",
]  # fmt: skip


def boxes(ax: Axes) -> dict[str, Bbox]:
    figure_of(ax).draw_without_rendering()
    notes = [text for text in ax.texts if isinstance(text, Annotation) and text.get_text()]
    return {note.get_text(): note.get_window_extent() for note in notes}


def test_points_intervals_and_start_line() -> None:
    table = comparison(NAMES)
    ax = accuracy_against_size(table)
    points = np.concatenate([line.get_xydata() for line in ax.lines[: len(NAMES)]])
    np.testing.assert_array_equal(points, table[["trainable_share", "accuracy_end"]])
    ends = [collection.get_segments()[0][:, 1].tolist() for collection in ax.collections]
    np.testing.assert_allclose(ends, table[["accuracy_low", "accuracy_high"]])
    assert ax.lines[-1].get_linestyle() == "--"
    assert set(ax.lines[-1].get_ydata()) == {0.4}
    assert ax.get_xscale() == "log"
    assert ax.get_ylim()[0] < table["accuracy_low"].min()


@pytest.mark.parametrize("crowding", [1.0, 0.2])
def test_labels_cover_neither_each_other_nor_the_edge(crowding: float) -> None:
    table = comparison(NAMES)
    table["accuracy_end"] = 0.42 + crowding * (table["accuracy_end"] - 0.42)
    ax = accuracy_against_size(table)
    found = boxes(ax)
    assert set(found) == set(NAMES)
    frame = ax.get_window_extent()
    assert all(frame.x0 <= b.x0 and b.x1 <= frame.x1 and frame.y0 <= b.y0 and b.y1 <= frame.y1 for b in found.values())
    clashes = [pair for pair in itertools.combinations(found, 2) if found[pair[0]].overlaps(found[pair[1]])]
    assert clashes == []


def test_runs_without_evaluation_are_named_not_drawn() -> None:
    table = comparison(NAMES[:3])
    table["accuracy_end"] = [0.5, None, 0.4]
    table["accuracy_low"] = [0.45, None, None]
    table["accuracy_high"] = [0.55, None, None]
    table["accuracy_start"] = None
    ax = accuracy_against_size(table)
    assert "not evaluated: lora-r32-lr1e-5" in ax.get_xlabel()
    assert len(ax.lines) == 2
    # The style of a run does not depend on which others were evaluated.
    assert ax.lines[1].get_color() == accuracy_against_size(comparison(NAMES[:3])).lines[2].get_color()


def test_no_evaluation_at_all_is_said_in_words() -> None:
    table = comparison(NAMES[:2]).assign(accuracy_end=None)
    assert accuracy_against_size(table).texts[0].get_text() == "no run was evaluated"
