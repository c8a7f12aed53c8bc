"""What every page shares: the template environment and figures embedded as images."""

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from PIL import Image

from spectra.figures.report.captioned import Plate
from spectra.figures.style import formats
from spectra.figures.style.style import png_bytes

_DPI = 144  # twice the pixels of a page at 5.5 in: sharp on a phone
_COLOURS = 256  # of a palette image: a third of the bytes, and no colour moves by more than a few levels


@dataclass(frozen=True)
class Picture:
    """A figure as a page embeds it.

    Attributes
    ----------
    name, title, caption, alt, section, reading
        As in the plate.
    uri
        The image itself, as a data URI: the page asks nothing from anywhere.
    width, height
        In CSS pixels, so that the page does not jump while it loads.
    """

    name: str
    title: str
    caption: str
    alt: str
    section: str
    reading: str
    uri: str
    width: int
    height: int


def pictures(plates: Iterable[Plate]) -> list[Picture]:
    """Return the plates as embedded images."""
    return [_picture(plate) for plate in plates]


def by_section(drawn: Iterable[Picture]) -> list[tuple[str, list[Picture]]]:
    """Return pictures under the sections that they belong to, in order."""
    return [(section, list(group)) for section, group in groupby(drawn, key=lambda picture: picture.section)]


def environment() -> Environment:
    """Return the environment of the page templates: HTML is escaped, an unknown name is an error."""
    made = Environment(
        loader=PackageLoader("spectra.figures.report", "templates"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {
        "number": formats.number,
        "share": formats.share,
        "words": formats.words,
        "tone": formats.tone,
        "sign": formats.sign,
        "breakable": formats.breakable,
        "status_tone": formats.status_tone,
        "status_sign": formats.status_sign,
        "sort_checks": formats.sort_checks,
        "md": formats.markdown,
    }
    made.globals |= {"lift": formats.lift}
    return made


def _picture(plate: Plate) -> Picture:
    with Image.open(io.BytesIO(png_bytes(plate.figure, _DPI))) as image:
        width, height = image.size
        # Maximum coverage keeps the rare colours at the ends of a colour bar; a median cut drops them.
        palette = image.convert("RGB").quantize(_COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        small = io.BytesIO()
        palette.save(small, "png", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(small.getvalue()).decode()
    return Picture(plate.name, plate.title, plate.caption, plate.alt, plate.section, plate.reading, uri, width, height)
