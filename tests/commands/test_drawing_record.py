"""What is on disk and right is not drawn again; what is not right never stays."""

from pathlib import Path

import pytest

from spectra.commands.drawing_record import Drawn, Figures, fingerprint, refresh
from spectra.runs.atomic import write_json
from spectra.runs.layout import AnalysisLayout


class Pen:
    """Draws a page and one figure, and counts how often."""

    def __init__(self, where: AnalysisLayout) -> None:
        self.where = where
        self.strokes = 0

    def __call__(self, pdf: bool) -> list[Path]:
        self.strokes += 1
        self.where.figures.mkdir(parents=True, exist_ok=True)
        made = [self.where.report_html, *(self.where.figures / f"a.{kind}" for kind in ("svg", *["pdf"] * pdf))]
        for path in made:
            path.write_text(f"drawing {self.strokes}")
        return made

    def refresh(self, now: str = "now", figures: Figures = "all") -> Path | None:
        return refresh(self.where, now, figures, self)

    @property
    def on_disk(self) -> set[str]:
        return {path.name for path in self.where.root.rglob("*") if path.is_file()}


@pytest.fixture
def pen(tmp_path: Path) -> Pen:
    return Pen(AnalysisLayout(tmp_path))


ALL = {"report.html", "a.svg", "a.pdf", "drawn.json"}


def test_what_is_unchanged_is_not_drawn(pen: Pen) -> None:
    assert pen.refresh() == pen.refresh() == pen.where.report_html
    assert pen.refresh(figures="report") == pen.where.report_html
    assert pen.refresh(figures="none") == pen.where.report_html
    assert (pen.strokes, pen.on_disk) == (1, ALL)


@pytest.mark.parametrize("name", ["figures/a.pdf", "figures/a.svg", "report.html"])
def test_what_is_deleted_is_drawn_again(pen: Pen, name: str) -> None:
    pen.refresh()
    (pen.where.root / name).unlink()
    pen.refresh()
    assert (pen.strokes, pen.on_disk) == (2, ALL)


def test_other_inputs_are_drawn_again(pen: Pen) -> None:
    pen.refresh()
    pen.refresh("later")
    assert pen.strokes == 2
    assert Drawn.read(pen.where).fingerprint == "later"


def test_more_is_drawn_when_more_is_asked_for(pen: Pen) -> None:
    pen.refresh(figures="report")
    assert pen.on_disk == ALL - {"a.pdf"}
    pen.refresh()
    assert (pen.strokes, pen.on_disk) == (2, ALL)


def test_none_draws_nothing_and_leaves_nothing_stale(pen: Pen) -> None:
    assert pen.refresh(figures="none") is None
    pen.refresh()
    assert pen.refresh("later", "none") is None
    assert (pen.strokes, pen.on_disk) == (1, set())


def test_what_no_record_knows_of_is_drawn_again(pen: Pen) -> None:
    pen.refresh()
    (pen.where.figures / "map.png").write_text("of an earlier version")
    for record in ("{", "[]"):
        pen.where.drawn.write_text(record)
        pen.refresh()
        assert pen.on_disk == ALL
    assert pen.strokes == 3


def test_files_of_others_stay(pen: Pen, tmp_path: Path) -> None:
    mine = pen.where.figures / "mine.pdf"
    outside = tmp_path.parent / f"{tmp_path.name}.pdf"
    pen.refresh()
    for file in (mine, outside):
        file.write_text("mine")
    names = ["figures/a.pdf", f"../{outside.name}", f"figures/../../{outside.name}", 5]
    write_json(pen.where.drawn, {"fingerprint": "old", "figures": "all", "files": names})
    pen.refresh("later", "none")
    assert pen.on_disk == {"mine.pdf", "a.svg"}  # the record no longer named a.svg
    assert (mine.read_text(), outside.read_text()) == ("mine", "mine")


def test_a_killed_drawing_is_drawn_again(pen: Pen) -> None:
    pen.refresh()

    def dies(pdf: bool) -> list[Path]:
        pen(pdf)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        refresh(pen.where, "later", "all", dies)
    assert "drawn.json" not in pen.on_disk
    pen.refresh("later")
    assert pen.on_disk == ALL


def test_a_fingerprint_is_of_content_and_of_words(tmp_path: Path) -> None:
    table = tmp_path / "a"
    table.write_text("1")
    first = fingerprint([table], "x")
    assert first == fingerprint([table], "x") != fingerprint([table], "y")
    table.write_text("2")
    assert fingerprint([table], "x") != first


def test_a_change_of_the_code_that_draws_changes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = tmp_path / "plot.py"
    code.write_text("old")
    monkeypatch.setattr("spectra.commands.drawing_record._code", lambda: [code])
    first = fingerprint([])
    code.write_text("new")
    assert fingerprint([]) != first
