"""CHAMP: answers written for people become answers that can be checked, or are left out."""

import json
from pathlib import Path

import pytest

from spectra.errors import CorruptFileError, MissingDependencyError
from spectra.training.data.carry_addition import Problem
from spectra.training.data.sources import champ
from spectra.training.data.sources.champ import checkable
from spectra.training.data.sources.reading import read
from spectra.training.data.sources.source import Source
from spectra.training.rewards.rewards import is_correct
from tests.requirements import needs


def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    """Put a package of that name and content where it is found; importing it fails."""
    file = tmp_path / "lib" / "champ_dataset" / "dataset_files" / "v0.json"
    file.parent.mkdir(parents=True)
    file.write_text(content, encoding="utf-8")
    (file.parents[1] / "__init__.py").write_text("raise ImportError('not for reading its file')\n")
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))


def test_problems_with_an_answer_that_can_be_checked_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {
        "P_1": {"identifier": "P_1", "_text": "Choose 5 of 10.", "_answer": "C(10, 5), or equivalently 252"},
        "P_2": {"identifier": "P_2", "_text": "Describe it.", "_answer": "The sequence is not periodic"},
        "P_3": {"identifier": "P_3", "_text": "Possible?", "_answer": "No"},
    }
    installed(tmp_path, monkeypatch, json.dumps({"problems": rows}))
    expected = [Problem("P_1", "Choose 5 of 10.", "252"), Problem("P_3", "Possible?", "No")]
    assert read(Source("benchmark:champ")) == expected


def test_a_file_of_another_form_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, monkeypatch, "{}")
    with pytest.raises(CorruptFileError, match="is not the CHAMP dataset"):
        list(champ.rows())


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(champ, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'spectra-rlvr\[tasks\]'"):
        list(champ.rows())


@pytest.mark.parametrize(
    ("answer", "mathematics"),
    [
        ("239", "239"),
        ("5/14, or approximately 35.7%", "5/14"),
        ("C(n, 4), or an equivalent form such as n(n-1)(n-2)(n-3)/4!", r"\binom{n}{4}"),
        ("100 (i.e., all values)", "100"),
        ("0 (none of the values)", "0"),
        ("2 inequalities", "2"),
        ("At least 1 number", "1"),
        ("Exactly one sequence", "1"),
        ("-3 is the only possible value", "-3"),
        ("The limit exists and is equal to (1+sqrt(4a+1))/2", r"(1+\sqrt{4a+1})/2"),
        ("376 and 625", "376, 625"),
        ("1, 4 and 9", "1, 4, 9"),
        ("n(n+1)*2^(n-2)", r"n(n+1) \cdot 2^{n-2}"),
        ("x=±1", r"x=\pm 1"),
        ("Yes", "Yes"),
        ("No possible solutions", None),
        ("x=6, y=5", None),
        ("x=y=0", None),
        ("(x^2+x+1)(x^2-x+1)", None),
        ("a(1±sqrt(2)), a(1±sqrt(5))/2", None),
        ("x(x-1)(x-2)...(x-2022)", None),
        ("Yes, and the sequence is 1/2^3, 1/2^6, 1/2^9, ...", None),
    ],
)
def test_answers_as_mathematics(answer: str, mathematics: str | None) -> None:
    assert checkable(answer) == mathematics
    if mathematics is not None:
        assert is_correct(rf"\boxed{{{mathematics}}}", mathematics)


@needs("champ_dataset")
def test_champ_itself() -> None:
    problems = read(Source("benchmark:champ"))
    assert len(problems) == len({problem.id for problem in problems}) == 223
    by_id = {problem.id: problem for problem in problems}
    assert by_id["P_Combinatorics_2"].answer == "252"
    assert all(isinstance(problem.prompt, str) and len(problem.prompt) > 15 for problem in problems)
