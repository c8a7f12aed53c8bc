"""What the figures and pages on disk were drawn from: what is still right is not drawn again. Imports nothing heavy."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from spectra.errors import CorruptFileError
from spectra.runs.atomic import read_json, write_json
from spectra.runs.layout import AnalysisLayout

Figures = Literal["none", "report", "all"]

_LIBRARIES = ("matplotlib", "pandas", "numpy", "jinja2")

# Figures that were written before there was a record of them.
_NAMES_OF_0_1_0 = frozenset(
    "accuracy_against_size convergence coordinates cumulative_left cumulative_right drift heatmap_kappa_spec "
    "heatmap_principal_lift heatmap_relative_fro learning_curves map nulls overlay_left overlay_right pair_cosines "
    "profile_left profile_right timeline trajectory".split()
)


@dataclass(frozen=True)
class Drawn:
    """What an earlier command drew.

    Attributes
    ----------
    fingerprint
        Digest of everything that it was drawn from; empty where that is not known.
    figures
        How much was drawn.
    files
        Names of what was written, relative to the directory.
    """

    fingerprint: str
    figures: str
    files: tuple[str, ...]

    @classmethod
    def read(cls, where: AnalysisLayout) -> "Drawn":
        """Return what is recorded in a directory; nothing where the record is missing or unreadable."""
        try:
            found = read_json(where.drawn) if where.drawn.exists() else {}
        except CorruptFileError:
            found = {}
        files = found.get("files")
        names = tuple(map(str, files)) if isinstance(files, list) else ()
        return cls(str(found.get("fingerprint", "")), str(found.get("figures", "")), names)


def fingerprint(inputs: Iterable[Path], *said: str) -> str:
    """Return a digest of input files, of further words that a page shows, and of the code that draws.

    The code is every file of ``spectra.figures`` and of what it computes with, and the versions of the libraries.
    """
    digest = sha256()
    for words in (*said, *(f"{name} {version(name)}" for name in _LIBRARIES)):
        digest.update(words.encode())
    for path in (*inputs, *_code()):
        digest.update(path.name.encode() + sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def refresh(where: AnalysisLayout, now: str, figures: Figures, draw: Callable[[bool], list[Path]]) -> Path | None:
    """Draw unless everything that is asked for is on disk and right; what is no longer right is removed first.

    Parameters
    ----------
    where
        The directory.
    now
        The fingerprint of what there is to draw.
    figures
        ``none`` draws nothing, ``report`` the pages with their figures, ``all`` a PDF of every figure too.
    draw
        Called as draw(pdf); returns the files that it wrote.

    Returns
    -------
    Path or None
        The page; None where there is none.
    """
    before = Drawn.read(where)
    right = before.fingerprint == now
    enough = before.figures in (figures, "all") and all((where.root / name).exists() for name in before.files)
    if not (right and (enough or figures == "none")):
        clear(where, before)
        if figures != "none":
            files = [path.relative_to(where.root).as_posix() for path in draw(figures == "all")]
            write_json(where.drawn, {"fingerprint": now, "figures": figures, "files": files})
    return where.report_html if where.report_html.exists() else None


def clear(where: AnalysisLayout, before: Drawn) -> None:
    """Remove what was drawn: no figure and no page outlives the numbers that it shows. Other files stay."""
    where.drawn.unlink(missing_ok=True)
    for path in (*_drawn(where, before), where.report_html, where.report_markdown):
        path.unlink(missing_ok=True)


def _drawn(where: AnalysisLayout, before: Drawn) -> list[Path]:
    """Return the figures of the record, or, without one, those with the names that version 0.1.0 gave its figures.

    A record is a file in somebody's run: a name in it that leads out of the folder of figures is not followed.
    """
    pictures = [path for suffix in ("pdf", "png", "svg") for path in where.figures.glob(f"*.{suffix}")]
    if not before.fingerprint:
        return [path for path in pictures if path.stem in _NAMES_OF_0_1_0]
    return [path for path in pictures if path.relative_to(where.root).as_posix() in before.files]


def _code() -> list[Path]:
    """Return the files of the code that draws, in a fixed order."""
    root = Path(__file__).parents[1]
    rooms = (root / "figures", root / "statistics", root / "linalg" / "nulls")
    return sorted(path for room in rooms for path in room.rglob("*") if path.suffix in (".py", ".j2", ".mplstyle"))
