import dataclasses

import pytest

from spectra.figures.report import takeaways
from spectra.runs.tables import Tables
from tests.figures.synthetic_tables import verdict


def test_readings_hold_the_numbers_that_are_drawn(whole: Tables) -> None:
    last = whole.modules.query("step == 64")
    assert f"{last['relative_fro'].median():.3g}" in takeaways.course(whole)
    assert "rounding the stored weights alone puts 0.0015 there" in takeaways.course(whole)
    biggest = last.loc[last["relative_fro"].idxmax(), "module"]
    assert takeaways.extremes(whole).startswith(f"Most: {biggest}, ")
    assert f"{whole.drift.query('step == 64')['rho_sigma'].median():.3g}" in takeaways.motion(whole)
    assert "(noise: 4.6 ×)" in takeaways.entries(whole)
    assert takeaways.halfway(whole) == (
        "At step 32 of 64 the cosine to the final update is 0.758, that of a random walk 0.707."
    )


def test_a_place_within_chance_is_called_chance(lora: Tables, pissa: Tables) -> None:
    assert takeaways.place(lora, "left").endswith("what a random direction gives.")
    assert "hold" in takeaways.place(pissa, "left")
    assert "random direction" not in takeaways.place(pissa, "left")


def test_the_first_signal_and_the_steps_to_the_others() -> None:
    assert takeaways.first_signal(verdict()) == "No signal left its initial level."
    said = takeaways.first_signal(verdict("reward_collapsed"))
    assert said.startswith("First, since step 28: entropy fell from 0.9 to 0.4; ")
    assert said.endswith("; reward 12 steps later, update size 20 steps later.")


def test_what_chance_explains(whole: Tables) -> None:
    kept = whole.nulls.query("metric in ('stable_rank', 'row_gini')")
    assert takeaways.unexplained(dataclasses.replace(whole, nulls=kept)) == (
        "Not explained by any family of nulls that was computed: row gini (6 families)."
    )
    one = kept.query("null == 'gaussian'")
    assert "row gini (1 family)" in takeaways.unexplained(dataclasses.replace(whole, nulls=one))
    partly = whole.nulls.query("metric == 'stable_rank'")
    assert "not all of them do for stable rank" in takeaways.unexplained(dataclasses.replace(whole, nulls=partly))
    noise = whole.nulls.assign(value=whole.nulls["expected"])
    assert "the update is noise" in takeaways.unexplained(dataclasses.replace(whole, nulls=noise))


@pytest.mark.parametrize("name", ["corner", "motion", "entries", "unexplained", "halfway"])
def test_tables_without_rows_have_no_reading(name: str, lora: Tables) -> None:
    assert getattr(takeaways, name)(lora) == ""


def test_a_run_without_update_has_few_words(untrained: Tables) -> None:
    assert takeaways.course(untrained) == "At step 0 ‖ΔW‖/‖W‖ is 0."
    assert takeaways.place(untrained, "left") == takeaways.extremes(untrained) == ""


def test_what_is_left_out_is_said_with_the_reason(
    whole: Tables, lora: Tables, untrained: Tables, vectors: Tables
) -> None:
    assert takeaways.left_out(whole) == ""
    assert takeaways.left_out(lora) == (
        "Not computed (spectra analyze --deep last does it): how whole matrices moved, which entries moved, "
        "sampled nulls."
    )
    assert takeaways.left_out(untrained).startswith("At step 0 ΔW is 0 or not finite in every matrix")
    assert takeaways.left_out(vectors).startswith("Only vectors train, and a vector has no singular directions")


def test_signals_of_one_step_came_together() -> None:
    entries = [
        {"signal": name, "onset_step": step, "says": f"the {name} fell"}
        for name, step in (("a", 3), ("b", 3), ("c", 4))
    ]
    said = takeaways.first_signal({"signals": entries})
    assert said == "First, since step 3: the a fell; b at the same step, c 1 step later."
