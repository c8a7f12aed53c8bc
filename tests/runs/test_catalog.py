import subprocess
import sys

import pytest

from spectra.runs.catalog import KEYS, METRICS, Metric, find
from spectra.runs.series import CANONICAL
from spectra.runs.tables import SCHEMAS

FIELDS = ("title", "formula", "range", "unit", "zero", "null", "source")


@pytest.mark.parametrize("table", sorted(SCHEMAS))
def test_every_column_of_every_table_is_a_key_or_a_metric(table: str) -> None:
    listed = {metric.name for metric in METRICS if metric.table == table}
    assert set(SCHEMAS[table]) - KEYS <= listed


@pytest.mark.parametrize("table", sorted(set(SCHEMAS) - {"series"}))
def test_every_metric_of_a_table_is_its_column(table: str) -> None:
    assert {metric.name for metric in METRICS if metric.table == table} <= set(SCHEMAS[table]) - KEYS


def test_every_metric_is_listed_once_and_of_a_known_table() -> None:
    names = [metric.qualified for metric in METRICS]
    assert len(names) == len(set(names))
    assert {metric.table for metric in METRICS} == set(SCHEMAS) | {"pairs"}


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.qualified)
def test_every_metric_says_everything(metric: Metric) -> None:
    for field in FIELDS:
        text = getattr(metric, field)
        assert isinstance(text, str)
        assert text.strip()
        assert "{" not in text.replace("#{", "")  # a template that was not filled
    assert all(alias.name and alias.where for alias in metric.aliases)


@pytest.mark.parametrize(("logged", "ours"), CANONICAL.items())
def test_what_trainers_log_is_found_under_its_own_name(logged: str, ours: str) -> None:
    assert [metric.qualified for metric in find(logged)] == [f"series.{ours}"]


@pytest.mark.parametrize(
    ("alias", "ours"),
    {
        "sv_top1_ratio": "modules.top1_energy", "matrix_rank": "modules.numerical_rank",
        "principal_half_energy": "projection.share", "top90w_captures_dw_left": "projection.share",
        "cosine_sim": "drift.one_minus_cos", "alpha": "modules.tail_alpha", "log_norm": "modules.delta_fro",
        "spectral_drift_l2_ratio": "drift.nss", "spectral_drift_to_delta_fro_ratio": "drift.rho_sigma",
        "principal_not_low_enrichment_vs_random": "coordinates.enrichment_principal_not_low",
        "intruder_dimensions": "drift.intruders", "sparsity": "coordinates.unchanged_bf16",
        "nonzero_jaccard": "pairs.jaccard",
    }.items(),
)  # fmt: skip
def test_names_of_other_tools_are_found(alias: str, ours: str) -> None:
    assert [metric.qualified for metric in find(alias)] == [ours]


def test_a_column_of_several_tables_is_found_in_each_and_alone() -> None:
    assert [metric.qualified for metric in find("share")] == ["projection.share", "map.share"]
    assert [metric.qualified for metric in find("map.share")] == ["map.share"]


def test_our_own_name_comes_before_another_tools() -> None:
    assert [metric.qualified for metric in find("stable_rank")] == ["modules.stable_rank"]
    assert any("of W and not of ΔW" in alias.where for alias in find("stable_rank")[0].aliases)


def test_a_null_and_a_distance_are_described_by_their_metric() -> None:
    [null], [z] = find("expected_overlap_low_magnitude"), find("z_overlap_low_magnitude")
    assert find("overlap_low_magnitude")[0].null in null.formula
    assert "overlap_low_magnitude" in z.formula
    assert z.unit == "standard deviations of the null"


def test_a_p_value_is_described_by_its_metric_wherever_it_is_a_column() -> None:
    for name in ("modules.p_centroid_left", "modules.p_diagonal_share", "projection.p"):
        [p] = find(name)
        assert p.title.endswith("two-sided p-value")
        assert (p.range, p.null) == ("0 to 1", "uniform")
    assert "centroid_left" in find("p_centroid_left")[0].formula
    assert find("nulls.p")[0].formula.startswith("rank of the value")


def test_nothing_is_found_for_no_name() -> None:
    assert find("no_such_metric") == ()
    assert find("") == ()


def test_the_catalog_needs_neither_pandas_nor_torch() -> None:
    code = "import sys; import spectra.runs.catalog; assert not {'pandas', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
