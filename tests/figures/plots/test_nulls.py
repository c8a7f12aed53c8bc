import dataclasses
import math

import numpy as np
import pytest

from spectra.errors import UsageError
from spectra.figures import forest, null_metrics
from spectra.figures.plots.nulls import chosen_metrics
from spectra.figures.style.style import figure_of
from spectra.runs.tables import Tables
from tests.figures.deep_tables import NULL_METRICS
from tests.figures.synthetic_tables import Spec, make


def z_texts(ax) -> list:
    return [text for text in ax.texts if text.get_gid() != "z-title"]


def test_value_and_intervals_are_those_of_means_over_matrices(whole: Tables) -> None:
    ax = forest(whole, metric="stable_rank")
    rows = whole.nulls.query("step == 64 and metric == 'stable_rank' and null == 'gaussian'")
    sd = math.sqrt((rows["sd"] ** 2).sum()) / len(rows)
    value, expected = rows["value"].mean(), rows["expected"].mean()
    assert ax.lines[1].get_xdata()[0] == pytest.approx(value)
    assert ax.lines[0].get_xdata()[0] == pytest.approx(expected)
    assert ax.patches[0].get_x() == pytest.approx(expected - 1.959964 * sd)
    assert ax.patches[0].get_width() == pytest.approx(2 * 1.959964 * sd)
    assert z_texts(ax)[0].get_text() == f"{(value - expected) / sd:+.0f}".replace("-", "−")


def test_one_matrix_has_the_quantiles_of_its_null() -> None:
    tables = make(Spec(layers=1, kinds=("q_proj",), deep=(64,)))
    ax = forest(tables, metric="nss")
    row = tables.nulls.query("metric == 'nss'").iloc[0]
    assert ax.patches[0].get_x() == pytest.approx(row["lo"])
    assert ax.patches[0].get_x() + ax.patches[0].get_width() == pytest.approx(row["hi"])


def test_families_are_named_and_the_unexplained_ones_bold(whole: Tables) -> None:
    ax = forest(whole, metric="effective_rank")
    assert [tick.get_text() for tick in ax.get_yticklabels()][:2] == ["Gaussian noise", "random rank-R"]
    weights = [text.get_fontweight() for text in z_texts(ax)]
    assert weights[0] == "bold"
    assert "normal" in weights[1:]
    assert ax.get_xscale() == "log"


def test_everything_is_inside_the_panel(whole: Tables) -> None:
    for metric in NULL_METRICS:
        ax = forest(whole, metric=metric)
        low, high = ax.get_xlim()
        edges = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in ax.patches]
        assert low < np.min(edges) <= np.max(edges) < high
        assert low < ax.lines[1].get_xdata()[0] < high


def test_ticks_are_told_apart_and_a_count_never_starts_below_zero(whole: Tables) -> None:
    near = whole.nulls.query("metric == 'nss'").assign(value=0.10205, expected=0.102, sd=1e-4, lo=0.1018, hi=0.1022)
    ax = forest(dataclasses.replace(whole, nulls=near), metric="nss")
    figure_of(ax).draw_without_rendering()
    ticks = [tick.get_text() for tick in ax.get_xticklabels()]
    assert len(set(ticks)) == len(ticks) > 1
    counts = near.assign(metric="intruders", value=0.0, expected=0.05, sd=0.3, lo=0.0, hi=1.0)
    bars = forest(dataclasses.replace(whole, nulls=counts), metric="intruders").patches
    assert [bar.get_x() for bar in bars] == [0.0, 0.0]


def test_metrics_are_those_of_the_last_step(whole: Tables) -> None:
    assert null_metrics(whole) == list(NULL_METRICS)
    early = dataclasses.replace(whole, nulls=whole.nulls.query("step == 32 or metric == 'nss'"))
    assert null_metrics(early) == ["nss"]
    assert len(null_metrics(early, 32)) == len(NULL_METRICS)


def test_a_null_without_spread_has_no_z(whole: Tables) -> None:
    ax = forest(dataclasses.replace(whole, nulls=whole.nulls.assign(sd=0.0)), metric="nss")
    assert {text.get_text() for text in z_texts(ax)} == {"–"}


def test_unknown_metrics_and_empty_tables(whole: Tables, lora: Tables) -> None:
    with pytest.raises(UsageError, match="'nuclear' has no sampled null; choose one of: stable_rank"):
        forest(whole, metric="nuclear")
    assert forest(lora, metric="nss").texts[0].get_text() == "no null was sampled"
    assert null_metrics(lora) == []


def test_a_page_shows_a_choice_and_everything_where_none_of_it_is_there(whole: Tables) -> None:
    assert chosen_metrics(whole) == [
        "stable_rank",
        "effective_rank",
        "unchanged_bf16",
        "row_gini",
        "rho_sigma",
        "angle_max_k4",
    ]
    other = whole.nulls.query("metric == 'nss'")
    assert chosen_metrics(dataclasses.replace(whole, nulls=other)) == ["nss"]


def test_families_are_compared_over_the_matrices_that_all_of_them_have(whole: Tables) -> None:
    rows = whole.nulls.query("metric == 'stable_rank' and step == 64")
    some = rows["module"].unique()[:2]
    common = rows[(rows["null"] == "gaussian") & rows["module"].isin(some)]
    kept = rows[(rows["null"] == "gaussian") | rows["module"].isin(some)]
    ax = forest(dataclasses.replace(whole, nulls=kept), metric="stable_rank")
    assert ax.lines[1].get_xdata()[0] == pytest.approx(common["value"].mean())
    apart = rows[(rows["null"] == "gaussian") ^ rows["module"].isin(some)]
    ax = forest(dataclasses.replace(whole, nulls=apart), metric="stable_rank")
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["Gaussian noise"]
