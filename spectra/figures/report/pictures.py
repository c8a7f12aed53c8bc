"""Figures drawn once each: saved, and embedded in a page from the same drawing."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from urllib.parse import quote

from spectra.figures.report.captioned import CaptionedFigure
from spectra.figures.style.style import OnceLaidOut, save, svg_text
from spectra.runs.atomic import write_text

_PIXELS = 2.0  # CSS pixels per point: 5.5 in are as wide as the text of a page
_SIZE = re.compile(r'<svg [^>]*?\bwidth="([\d.]+)pt" height="([\d.]+)pt"')
_IN_URI = " ='/:;,()!*+@$~"  # what a data URI inside a quoted attribute may hold as it is


@dataclass(frozen=True)
class Picture:
    """A figure as a page embeds it.

    Attributes
    ----------
    name, title, caption, alt, section, takeaway
        As in :class:`~spectra.figures.report.captioned.CaptionedFigure`.
    uri
        The SVG image itself, as a data URI: the page loads nothing.
    width, height
        In CSS pixels, so that the page does not jump while it loads.
    files
        What was saved of it.
    """

    name: str
    title: str
    caption: str
    alt: str
    section: str
    takeaway: str
    uri: str
    width: int
    height: int
    files: tuple[Path, ...]


def pictures(
    figures: Iterable[CaptionedFigure], directory: Path | None, *, pdf: bool = False, reuse: bool = False
) -> list[Picture]:
    """Draw each figure once, one after the other.

    Parameters
    ----------
    figures
        The figures, not drawn yet.
    directory
        Where each goes as an SVG file; made if it is missing. None saves nothing.
    pdf
        Save a PDF there too.
    reuse
        Take the SVG file of a figure that is there instead of drawing it.
    """
    return [_picture(figure, directory, pdf, reuse) for figure in figures]


def by_section(drawn: Iterable[Picture]) -> list[tuple[str, list[Picture]]]:
    """Return pictures under the sections that they belong to, in order."""
    return [(section, list(group)) for section, group in groupby(drawn, key=lambda picture: picture.section)]


def _picture(said: CaptionedFigure, directory: Path | None, pdf: bool, reuse: bool) -> Picture:
    path = None if directory is None else directory / f"{said.name}.svg"
    files: list[Path] = []
    if reuse and path is not None and path.exists():
        svg = path.read_text(encoding="utf-8")
    else:
        figure = said.draw()
        if isinstance(figure, OnceLaidOut):
            figure.finish_layout()
        svg = svg_text(figure)
        if path is not None:
            write_text(path, svg)
            files = [*([save(figure, path.with_suffix(".pdf"))] if pdf else []), path]
    uri, width, height = _embedded(svg)
    return Picture(
        said.name, said.title, said.caption, said.alt, said.section, said.takeaway, uri, width, height, tuple(files)
    )


def _embedded(svg: str) -> tuple[str, int, int]:
    """Return an SVG image as a data URI, with its width and height in CSS pixels."""
    size = _SIZE.search(svg)
    if size is None:
        raise ValueError("an SVG image without a size in points")
    width, height = (round(_PIXELS * float(points)) for points in size.groups())
    uri = "data:image/svg+xml," + quote(" ".join(svg[size.start() :].splitlines()), safe=_IN_URI)
    return uri, width, height
