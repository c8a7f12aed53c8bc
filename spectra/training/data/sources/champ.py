r"""The competition problems of the ``champ-dataset`` package (Mao et al. 2024, 2401.06961), read from its file.

Its answers are prose: ``C(10, 5), or equivalently 252``. Only problems are kept whose answer the reward can check: a
number, an expression, a few of them, or yes and no. These answers are rewritten as mathematics.
"""

import json
import re
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from spectra.errors import CorruptFileError, MissingDependencyError
from spectra.training.data.sources.source import Row

_PACKAGE, _FILE = "champ_dataset", "dataset_files/v0.json"

# Prose around an answer.
_AROUND: list[tuple[re.Pattern[str], str]] = [
    (re.compile(r"^.*, or equivalently "), ""),
    (re.compile(r", or (approximately|an equivalent form) .*$"), ""),
    (re.compile(r" \((i\.e\.|none|no) ?.*\)$|\(i\.e\., .*\)$"), ""),
    (re.compile(r" is the only possible value$"), ""),
    (re.compile(r"^The (limit exists and is equal to|only possible value for the limit is) "), ""),
    (re.compile(r"^(Exactly|At least|At most) one\b"), "1"),
    (re.compile(r"^(At least|At most) (?=\d)"), ""),
    (re.compile(r"(?<=\d) ?(integer-valued |possible )?[a-z]{4,}$"), ""),
    (re.compile(r",? and "), ", "),
]
_AS_MATHEMATICS: list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [
    (re.compile(r"\bC\(([^(),]+), ?([^(),]+)\)"), r"\\binom{\1}{\2}"),
    (re.compile(r"\bsqrt\(([^()]+)\)"), r"\\sqrt{\1}"),
    (re.compile(r"\^\(([^()]*)\)"), r"^{\1}"),
    (re.compile(r"\*"), r" \\cdot "),
    (re.compile(r"±"), r"\\pm "),
    (re.compile(r"−"), "-"),
]
_WORD = re.compile(r"(?<!\\)\b[A-Za-z]{2,}")


def rows() -> Iterator[Row]:
    """Return the problems as rows of id, prompt and answer.

    Raises
    ------
    MissingDependencyError
        If the package is not installed.
    CorruptFileError
        If its file has another format.
    """
    # Found, not imported: the package imports more than its file needs.
    spec = find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        hint = "pip install 'spectra-rlvr[tasks]'"
        raise MissingDependencyError("the champ problems need the champ-dataset package", hint=hint)
    path = Path(spec.submodule_search_locations[0]) / _FILE
    try:
        problems = json.loads(path.read_text(encoding="utf-8"))["problems"].values()
        for problem in problems:
            answer = checkable(problem["_answer"])
            if answer is not None:
                yield {"id": problem["identifier"], "prompt": problem["_text"], "answer": answer}
    except (OSError, ValueError, KeyError) as error:
        raise CorruptFileError("is not the CHAMP dataset", where=path, hint="reinstall champ-dataset 1.0") from error


def checkable(answer: str) -> str | None:
    r"""Return an answer as mathematics, or None where it is prose.

    >>> checkable("C(10, 5), or equivalently 252"), checkable("0 is the only possible value")
    ('252', '0')
    >>> checkable("2^(n-1)"), checkable("x=±1, ±2"), checkable("The sequence does not exist")
    ('2^{n-1}', 'x=\\pm 1, \\pm 2', None)
    """
    if re.fullmatch(r"Yes|No", answer):
        return answer
    for pattern, replacement in _AROUND:
        answer = pattern.sub(replacement, answer)
    for rewrite, by in _AS_MATHEMATICS:
        answer = rewrite.sub(by, answer)
    prose = _WORD.search(answer) or "..." in answer or answer.count("=") > 1
    # Repeating the problem would match a factored polynomial, and ± within a factor is not parsed.
    return None if prose or re.match(r"\(.*x.*\)\(|\w\(.*pm", answer) else answer.strip()
