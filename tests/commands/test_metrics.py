import json

import pytest

from spectra.commands.metrics import lines, metrics
from spectra.errors import UsageError
from spectra.runs.catalog import METRICS


def test_all_are_listed_as_plain_values() -> None:
    found = metrics()
    assert len(found) == len(METRICS)
    assert json.loads(json.dumps(found)) == found


def test_one_is_found_by_another_tools_name_with_the_difference() -> None:
    [found] = metrics("sv_top1_ratio")
    assert found["name"] == "top1_energy"
    assert "of values and not of energies" in found["aliases"]["sv_top1_ratio"]


def test_lines_say_definition_zero_and_chance() -> None:
    said = "\n".join(lines(metrics("projection.share")[0]))
    for expected in (
        "projection.share: ",
        "k²/(O·I) joint",
        "for ΔW = 0: NaN",
        "by chance: Haar",
        "also principal_half",
    ):
        assert expected in said


@pytest.mark.parametrize(("wrong", "nearest"), [("stable_ranks", "stable_rank"), ("frac_reward_zero", "frac_reward")])
def test_an_unknown_name_names_the_nearest(wrong: str, nearest: str) -> None:
    with pytest.raises(UsageError, match=f"no metric named '{wrong}'; did you mean '{nearest}"):
        metrics(wrong)


def test_a_name_like_none_says_where_all_are() -> None:
    with pytest.raises(UsageError, match="`spectra metrics` lists them all"):
        metrics("qqqqqqqq")
