from pathlib import Path

import pytest

from spectra.figures import draw_all, draw_comparison
from spectra.figures.report.captioned import CaptionedFigure
from spectra.figures.report.gallery import in_order, run_figures
from spectra.runs.layout import AnalysisLayout
from spectra.runs.tables import Tables, write_table
from tests.figures.deep_tables import pair_rows
from tests.figures.synthetic_tables import Spec, comparison, make, verdict

NAMES = {
    "profile_left", "profile_right", "cumulative_left", "cumulative_right", "heatmap_relative_fro",
    "heatmap_principal_lift", "trajectory", "timeline",
}  # fmt: skip
PLACE = {name for name in NAMES if name.startswith(("profile", "cumulative", "heatmap_principal"))}
DEEP = {"map", "drift", "heatmap_kappa_spec", "coordinates", "nulls", "convergence"}


def test_draw_all_writes_every_figure_and_the_same_bytes_again(tmp_path: Path) -> None:
    tables = make(Spec(layers=1, steps=(0, 16)))
    first, second = AnalysisLayout(tmp_path / "a"), AnalysisLayout(tmp_path / "b")
    made = draw_all(tables, verdict(), first)
    assert {path.stem for path in made} == NAMES
    assert {path.suffix for path in made} == {".pdf", ".svg"}
    assert sorted(first.figures.iterdir()) == sorted(made)
    assert [path.read_bytes() for path in made] == [path.read_bytes() for path in draw_all(tables, verdict(), second)]


def test_the_trajectory_says_the_verdict_and_marks_its_onset(pissa: Tables) -> None:
    figure = next(run_figures(pissa, verdict("reward_collapsed")))
    axes = figure.draw().axes
    assert axes[0].get_title(loc="right") == "verdict: reward collapsed, from step 40"
    assert all(any(set(line.get_xdata()) == {40} for line in ax.lines) for ax in axes)


@pytest.fixture(scope="module")
def figures(whole: Tables) -> list[CaptionedFigure]:
    return list(run_figures(whole, verdict()))


def test_every_caption_says_how_to_read_it(figures: list[CaptionedFigure]) -> None:
    for figure in figures:
        assert len(figure.caption) > 100
        assert figure.alt
        if figure.name != "heatmap_relative_fro":
            assert "chance" in figure.caption.lower()


@pytest.mark.parametrize(
    "spec",
    [
        Spec(steps=(64,), layers=1, kinds=("q_proj",), rank=1),
        Spec(steps=(0, 8), rank=None, norms=True, embedding=True),
    ],
    ids=["one-matrix-rank-1", "vectors-and-embedding"],
)
def test_every_figure_survives(spec: Spec) -> None:
    figures = list(run_figures(make(spec), verdict("not_learning")))
    assert {figure.name for figure in figures} == NAMES
    for figure in figures:
        figure.draw().draw_without_rendering()


def test_an_update_without_a_place_has_no_figure_of_it(untrained: Tables, vectors: Tables) -> None:
    for tables in (untrained, vectors):
        assert {figure.name for figure in run_figures(tables, verdict("not_learning"))} == NAMES - PLACE


def test_deep_tables_have_figures_in_named_sections(figures: list[CaptionedFigure]) -> None:
    assert {figure.name for figure in figures} == NAMES | DEEP
    sections = [figure.section for figure in figures]
    assert [s for i, s in enumerate(sections) if i == 0 or s != sections[i - 1]] == list(dict.fromkeys(sections))
    for figure in figures:
        assert (figure.takeaway == "") == (figure.name.startswith(("cumulative", "heatmap_principal", "heatmap_kappa")))


def test_one_deep_snapshot_leaves_out_what_needs_two() -> None:
    figures = {figure.name: figure for figure in run_figures(make(Spec(layers=2, steps=(64,), deep=(64,))), verdict())}
    assert set(figures) == NAMES | DEEP - {"convergence"}
    assert len([ax for ax in figures["map"].draw().axes if ax.images]) == 1


def test_pairs_are_drawn_where_the_directory_has_them(lora: Tables, tmp_path: Path) -> None:
    write_table(pair_rows(["a", "b"], ["m"]), AnalysisLayout(tmp_path).table("pairs"))
    made = draw_comparison({"a": lora, "b": lora}, comparison(["a", "b"]), tmp_path)
    assert "pair_cosines" in {path.stem for path in made}


def test_draw_comparison_writes_into_the_directory(lora: Tables, pissa: Tables, tmp_path: Path) -> None:
    made = draw_comparison({"lora": lora, "pissa": pissa}, comparison(["pissa", "lora"]), tmp_path / "out")
    assert {path.parent for path in made} == {tmp_path / "out"}
    assert {path.stem for path in made} == {"accuracy_against_size", "learning_curves", "overlay_left", "overlay_right"}


def test_rows_follow_the_order_of_the_runs() -> None:
    table = in_order(comparison(["b", "a"]), {"a": 0, "missing": 0, "b": 0})
    assert table["run"].tolist() == ["a", "missing", "b"]
    assert table["steps"].isna().tolist() == [False, True, False]
