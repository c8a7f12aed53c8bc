import dataclasses

import numpy as np
import pandas as pd
import pytest

from spectra.errors import UsageError
from spectra.figures import timeline, timeline_signals
from spectra.figures.data.summaries import curve
from spectra.runs.tables import Tables, empty
from tests.figures.synthetic_tables import Spec, make, verdict


def names(tables: Tables, said: dict) -> list[str]:
    return [signal.name for signal in timeline_signals(tables, said)]


def test_panels_are_what_was_logged_and_what_broke(pissa: Tables) -> None:
    assert names(pissa, verdict()) == ["reward", "entropy", "update_size", "effective_rank"]
    logged = make(Spec(extra_series={"grad_norm": 1.0, "zero_advantage_share": 0.2, "completion_length": 90.0}))
    usual = ["reward", "zero_advantage_share", "entropy", "completion_length", "update_size", "effective_rank"]
    assert names(logged, verdict()) == usual
    said = verdict() | {"signals": [{"signal": "grad_norm", "onset_step": 7, "says": "it rose"}]}
    assert names(logged, said) == [*usual[:4], "grad_norm", *usual[4:]]


def test_panels_draw_curves_of_the_log_and_of_the_weights_what_the_signals_are_judged_by(pissa: Tables) -> None:
    reward, entropy, size, rank = timeline(pissa, verdict())
    np.testing.assert_array_equal(reward.lines[-1].get_xydata(), curve(pissa, "reward")[["step", "smooth"]])
    weights = pissa.modules.groupby("step")
    np.testing.assert_allclose(size.lines[0].get_ydata(), weights["relative_spectral"].quantile(0.9).dropna())
    np.testing.assert_allclose(rank.lines[0].get_ydata(), weights["effective_rank_energy"].median().dropna())
    assert entropy.get_ylim()[0] == rank.get_ylim()[0] == 0
    assert len({ax.get_xlim() for ax in (reward, entropy, size, rank)}) == 1


def test_onsets_are_marked_and_the_first_is_named(pissa: Tables) -> None:
    axes = dict(zip(names(pissa, said := verdict("reward_collapsed")), timeline(pissa, said), strict=True))
    assert axes["entropy"].get_title(loc="right") == "first: since step 28"
    assert axes["reward"].get_title(loc="right") == "since step 40"
    assert axes["effective_rank"].get_title(loc="right") == ""
    marks = {name: [set(x.get_xdata()) for x in ax.lines if x.get_gid() == "onset"] for name, ax in axes.items()}
    assert marks == {"reward": [{40}], "entropy": [{28}], "update_size": [{48}], "effective_rank": []}
    assert all([set(x.get_xdata()) for x in ax.lines if x.get_gid() == "first-onset"] == [{28}] for ax in axes.values())


def test_a_healthy_run_has_no_mark(lora: Tables) -> None:
    for ax in timeline(lora, verdict()):
        assert not [line for line in ax.lines if line.get_gid()]


def test_a_signal_that_is_not_drawn_is_still_the_first(lora: Tables) -> None:
    said = verdict() | {"signals": [{"signal": "sampler_mismatch", "onset_step": 9, "says": "it rose"}]}
    assert all(any(line.get_gid() == "first-onset" for line in ax.lines) for ax in timeline(lora, said))


def test_nothing_to_draw_says_so(untrained: Tables) -> None:
    bare = dataclasses.replace(untrained, modules=empty("modules"), series=pd.DataFrame({"step": [1]}))
    [ax] = timeline(bare, {})
    assert "nothing was logged" in ax.texts[0].get_text()


def test_the_number_of_given_axes_is_checked(lora: Tables) -> None:
    with pytest.raises(UsageError, match="timeline: needs 4 axes, got 2"):
        timeline(lora, verdict(), axes=timeline(lora, verdict())[:2])
