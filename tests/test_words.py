"""The language of the house: American spelling, and no phrase that a reader of the field would stumble over.

A folder that is done is added to ``COVERED``. Text that must stay as it is, such as a key of a JSON file or a quotation
of another project, is added to ``ALLOWED`` with its reason.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Files and folders whose language is checked.
COVERED = (
    "README.md",
    "CONTRIBUTING.md",
    "docs",
    "training",
    "analysis/README.md",
    "spectra",
)
SUFFIXES = {".py", ".md", ".yaml"}

BRITISH = (
    r"analys(?:e|ed|er|ing)\b",
    r"(?:initial|quant|normal|recogn|factor|orthogonal|orthonormal|random|regular|vector|general|special|organ)is"
    r"(?:e|ed|es|ing|ation)\b",
    r"(?:summar|optim|minim|maxim|penal|serial|synchron|token|parallel|material|final|emphas)is(?:e|ed|es|ing|ation)\b",
    r"colour",
    r"\bcentre",
    r"behaviour",
    r"neighbour",
    r"favour",
    r"honour",
    r"\b(?:mis)?labelled",
    r"\bmodelled",
    r"\bcancelled",
    r"\bmisspelt\b|\bspelt\b",
    r"\bgrey\b",
    r"\blicence\b",
)
# The column "not" of the table of words, as far as a phrase has no other meaning.
PHRASES = (
    r"cannot be had",
    r"stands in no\b",
    r"said twice",
    r"without a word",
    r"\bmend(?:s|ed|ing)?\b",
    r"\bcures?\b",
    r"the base's own",
    r"what it was put on",
    r"planted truth",
    r"is no (?:rank|share|name)\b",
    r"the first so many",
    r"completions a problem",
    r"at most this rank a matrix",
    r"called again, it",
    r"one a (?:matrix|module|snapshot|step|pair)\b",
    r"row a (?:matrix|module|snapshot|step)\b",
    r"read as learning",
)
WRONG = re.compile("|".join((*BRITISH, *PHRASES)), re.IGNORECASE)

# Parts of lines that are not checked.
ALLOWED = (
    '"analysed"',  # key of verdict.json, which programs read
    '"recognised"',  # key of `spectra doctor --json`, which programs read
)


def covered_files() -> list[Path]:
    """Return every text file of ``COVERED``."""
    paths = [ROOT / name for name in COVERED]
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
    return [file for file in files if file.suffix in SUFFIXES and "__pycache__" not in file.parts]


def faults(text: str) -> list[str]:
    """Return ``line: phrase`` of what should be written otherwise."""
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        for allowed in ALLOWED:
            line = line.replace(allowed, "")
        found += [f"{number}: {match[0]}" for match in WRONG.finditer(line)]
    return found


def test_every_covered_path_exists() -> None:
    assert not [name for name in COVERED if not (ROOT / name).exists()]


@pytest.mark.parametrize("file", covered_files(), ids=lambda file: str(file.relative_to(ROOT)))
def test_words(file: Path) -> None:
    assert not faults(file.read_text(encoding="utf-8")), "use American spelling and the field's terms"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("we analyse it", ["1: analyse"]),
        ("several analyses of an analysis are analyzed", []),
        ("initialised, Quantisation and colours", ["1: initialised", "1: Quantisation", "1: colour"]),
        ("its base cannot be had", ["1: cannot be had"]),
        ("how to amend a recommendation", []),
        ('{"analysed": 6}', []),
        ("a raised noise rises precisely", []),
    ],
)
def test_what_is_found(line: str, found: list[str]) -> None:
    assert faults(line) == found
