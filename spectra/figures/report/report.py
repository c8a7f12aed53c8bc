"""The report of one run: verdict, evidence, figures and facts on one page."""

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spectra.figures.data.run_frames import RunFrames
from spectra.figures.data.summaries import FRACTION, analyzed_fraction, is_placed, kinds, resolve_step
from spectra.figures.report.gallery import run_figures
from spectra.figures.report.page import environment
from spectra.figures.report.pictures import by_section, pictures
from spectra.figures.report.takeaways import left_out
from spectra.figures.style import formats
from spectra.runs.atomic import write_text
from spectra.runs.layout import AnalysisLayout
from spectra.runs.tables import Tables


@dataclass(frozen=True)
class RunReport:
    """What a page says about one run.

    Attributes
    ----------
    tables
        The tables of the run.
    verdict
        The verdict, as in ``verdict.json``.
    facts
        Run path, base, method, versions, command: shown as they are, in this order.
    drawn
        Directory with SVG files of the run's figures, drawn from these tables: a page takes them as they are.
    """

    tables: Tables
    verdict: Mapping[str, Any]
    facts: Mapping[str, str]
    drawn: Path | None = None

    @property
    def step(self) -> int:
        """The last analyzed step: what the tables of the page show."""
        return resolve_step(self.tables, None)

    @property
    def fraction(self) -> float:
        """Which part of the singular directions counts as principal or minor."""
        return analyzed_fraction(self.tables, FRACTION)

    @property
    def placed(self) -> bool:
        """Whether an update has rank and place to show, see ``summaries.is_placed``."""
        return is_placed(self.tables)

    @property
    def left_out(self) -> str:
        """Which parts have nothing to show and why, see ``takeaways.left_out``."""
        return left_out(self.tables)

    def kind_rows(self) -> list[dict[Hashable, Any]]:
        """Return one row per module type, see ``summaries.kinds``."""
        return kinds(self.tables, step=self.step).to_dict("records")

    def module_counts(self) -> list[tuple[str, int]]:
        """Return how many modules got each verdict, most frequent first."""
        return Counter(entry["verdict"] for entry in self.verdict.get("modules", {}).values()).most_common()


def write_report(
    tables: Tables, verdict: Mapping[str, Any], facts: Mapping[str, str], out: AnalysisLayout, *, pdf: bool = False
) -> list[Path]:
    """Write ``report.html`` (self-contained), ``report.md``, and the figures, each drawn once.

    Parameters
    ----------
    tables
        The tables of the run.
    verdict
        The verdict, as in ``verdict.json``.
    facts
        Run path, base, method, versions, command to reproduce: shown as they are, in this order.
    out
        The analysis directory. The SVG files that ``report.md`` refers to go to ``out.figures``.
    pdf
        Save a PDF of every figure too, from the same drawing.

    Returns
    -------
    list[Path]
        The two pages, then the figures, each written atomically.
    """
    tables = RunFrames.of(tables)
    report = RunReport(tables, verdict, facts)
    templates = environment()
    drawn = pictures(run_figures(tables, verdict), out.figures, pdf=pdf)
    context = {
        "title": facts.get("run", formats.words(str(verdict["verdict"]))),
        "report": report,
        "sections": by_section(drawn),
        "figures": out.figures.relative_to(out.root).as_posix(),
    }
    write_text(out.report_html, templates.get_template("report.html.j2").render(context))
    write_text(out.report_markdown, templates.get_template("report.md.j2").render(context))
    return [out.report_html, out.report_markdown, *(path for picture in drawn for path in picture.files)]
