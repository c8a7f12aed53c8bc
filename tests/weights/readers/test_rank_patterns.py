"""Ranks and scales by pattern, and values that are none."""

import pytest

from spectra.errors import CorruptFileError
from spectra.weights.readers.rank_patterns import by_pattern, rank_and_alpha

MODULE = "model.layers.0.self_attn.q_proj"


def test_the_first_pattern_that_matches_wins() -> None:
    assert by_pattern({"k_proj": 1, r"layers\.0\..*": 2, "q_proj": 3}, MODULE, 9) == 2
    assert by_pattern({"roj": 1}, MODULE, 9) == 9
    assert by_pattern(None, MODULE, 9) == 9


def test_rank_and_alpha() -> None:
    assert rank_and_alpha({}, MODULE) == (8, 8.0)
    config = {"r": 4.0, "lora_alpha": 0, "alpha": 3, "rank_pattern": {"q_proj": 2}}
    assert rank_and_alpha(config, MODULE) == (2, 0.0)
    assert rank_and_alpha(config, "k_proj", "alpha") == (4, 3.0)


@pytest.mark.parametrize(
    "config",
    [
        {"r": 0},
        {"r": 2.5},
        {"r": None},
        {"r": True},
        {"lora_alpha": float("nan")},
        {"lora_alpha": "16"},
        {"rank_pattern": {"q_proj": "x"}},
        {"rank_pattern": {"(": 4}},
        {"alpha_pattern": [1]},
    ],
)
def test_what_is_no_number_has_words(config: dict[str, object]) -> None:
    with pytest.raises(CorruptFileError):
        rank_and_alpha(config, MODULE)
