"""Which base a run or an adapter was trained on, from what its files say."""

from pathlib import Path

import pytest

from spectra.errors import BaseModelError
from spectra.weights.storage.base import find_base
from tests.builders import small_base


def test_a_name_is_looked_for_here_in_the_run_and_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "runs" / "one"
    beside, inside = small_base(tmp_path / "runs" / "base"), small_base(run / "base")
    assert find_base(run, "base") == inside
    assert find_base(tmp_path / "runs" / "two", "base") == beside
    assert find_base(run, str(beside)) == beside
    assert find_base(run, None, None, str(beside)) == beside == find_base(run, "absent", None, str(beside))
    here = small_base(tmp_path / "here" / "base")
    monkeypatch.chdir(tmp_path / "here")
    assert find_base(run, "base").resolve() == here


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (None, "does not name the base model it was trained on; pass it with --base DIR_OR_HUB_ID"),
        (7, "name of its base model must be a string, got 7; pass it with --base"),
        (
            "absent",
            r"its base model 'absent' could not be loaded \(no such base model directory\); pass it with --base",
        ),
        ("org/model-bnb-4bit", "trained on the quantized 'org/model-bnb-4bit'.*likely --base org/model$"),
    ],
)
def test_what_cannot_be_had_is_said_of_the_run(tmp_path: Path, name: object, words: str) -> None:
    with pytest.raises(BaseModelError, match=words) as caught:
        find_base(tmp_path, name)
    assert caught.value.where == str(tmp_path)


def test_a_directory_may_have_the_name_of_a_quantized_model(tmp_path: Path) -> None:
    base = small_base(tmp_path / "model-4bit")
    assert find_base(tmp_path / "run", "model-4bit") == base
