"""Embed each font of a PDF from one subset per process: matplotlib makes a subset anew for every file.

Making a subset of DejaVu Sans took 66 ms, more than drawing a small figure. The subset here has the characters that
figures of spectra use; a figure with others gets a subset of its own, as matplotlib would make it.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from string import printable

from matplotlib.backends import _backend_pdf_ps
from matplotlib.font_manager import FontPath, get_font

_CHARACTERS = printable.strip() + " −–…‖·×÷±≤≥→∥²³⁰¹⁴⁵⁶⁷⁸⁹⁻₀₁₂ₖᵀΔΣαβκλρσ√°ﬀﬁﬂﬃﬄ"
_make_subset = _backend_pdf_ps.get_glyphs_subset


@dataclass(frozen=True)
class _SavedFont:
    """What matplotlib asks of the font of a subset, once it is saved."""

    content: bytes

    def save(self, target: BytesIO, reorderTables: bool | None = None) -> None:
        """Write the font file; its tables are in order already."""
        target.write(self.content)


@contextmanager
def shared_subsets() -> Iterator[None]:
    """Make matplotlib take the shared subsets inside the block.

    Replaces a private function of matplotlib 3.11; the files differ from what it would write in unused glyphs alone.
    """
    _backend_pdf_ps.get_glyphs_subset = _subset
    try:
        yield
    finally:
        _backend_pdf_ps.get_glyphs_subset = _make_subset


@contextmanager
def _subset(fontfile: FontPath, glyphs: Collection[int]) -> Iterator[_backend_pdf_ps.SubsetResults]:
    if _shared_glyphs(fontfile).issuperset(glyphs):
        yield _shared_subset(fontfile)
    else:
        with _make_subset(fontfile, set(glyphs)) as subset:
            yield subset


@cache
def _shared_glyphs(fontfile: FontPath) -> frozenset[int]:
    return frozenset(get_font(fontfile).get_char_index(ord(character)) for character in _CHARACTERS) - {0}


@cache
def _shared_subset(fontfile: FontPath) -> _backend_pdf_ps.SubsetResults:
    with _make_subset(fontfile, set(_shared_glyphs(fontfile))) as subset:
        content = BytesIO()
        subset.font.save(content, reorderTables=False)
        return _backend_pdf_ps.SubsetResults(_SavedFont(content.getvalue()), subset.glyph_index_map)
