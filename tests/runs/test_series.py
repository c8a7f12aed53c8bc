"""Names under which training is logged."""

from typing import Any

import pytest

from spectra.analysis.verdict.signals import signals
from spectra.runs.series import TRL, VERL, series_frame
from tests.analysis.verdict.rules.rule_tables import made


@pytest.mark.parametrize("logged", ["sampling/sampling_logp_difference/mean", "training/rollout_probs_diff_mean"])
def test_a_mismatch_of_the_sampler_has_one_name(logged: str) -> None:
    frame = series_frame([{"step": 1, logged: 0.02}])
    assert frame["sampler_mismatch"].tolist() == [0.02]


@pytest.mark.parametrize(
    ("record", "ratio"),
    [
        ({"clip_ratio/region_mean": 0.03}, 0.03),
        ({"actor/pg_clipfrac": 0.03}, 0.03),
        ({"clip_low": 0.01, "clip_high": 0.02}, 0.03),
        ({"clip_ratio/low_mean": 0.01, "clip_ratio/high_mean": 0.01, "clip_ratio/region_mean": 0.03}, 0.03),
    ],
)
def test_the_clip_ratio_has_one_name_and_is_the_sum_of_both_sides(record: dict[str, Any], ratio: float) -> None:
    assert series_frame([{"step": 1, **record}])["clip_ratio"].tolist() == [pytest.approx(ratio)]


def test_a_side_alone_is_no_clip_ratio() -> None:
    assert "clip_ratio" not in series_frame([{"step": 1, "clip_low": 0.01}])


def test_the_names_of_verl_reach_the_signals() -> None:
    records = [
        {"step": step, "actor/pg_clipfrac": 0.2 if step > 30 else 0.01 + 1e-4 * (step % 2)} for step in range(1, 61)
    ]
    found = signals(made(series=series_frame(records)))
    assert [(signal.name, signal.onset_step) for signal in found] == [("clip_ratio", 31)]
    assert not set(TRL) & set(VERL)
