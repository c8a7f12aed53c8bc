import numpy as np
import pytest

from spectra.errors import UsageError
from spectra.figures.data.profiles import cumulative_curve, profile_curve, widest_band
from spectra.figures.data.summaries import Side, check, lifts
from spectra.linalg.nulls.haar_moments import haar_share
from spectra.runs.tables import Tables
from tests.figures.synthetic_tables import Spec, make, merged, one_matrix


def test_profile_of_one_matrix_by_hand() -> None:
    tables = one_matrix([0.4, 0.3, 0.2, 0.1], [0.7, 0.15, 0.1, 0.05], shape=(8, 16), concentration=0.25)
    curve = profile_curve(tables, "left")
    sd = haar_share(2, 8, 0.25).sd / 0.25
    assert curve["position"].tolist() == [0.125, 0.375, 0.625, 0.875]
    assert curve["update"].tolist() == pytest.approx([1.6, 1.2, 0.8, 0.4])
    assert curve["base"].tolist() == pytest.approx([2.8, 0.6, 0.4, 0.2])
    assert curve["null_high"].tolist() == pytest.approx([1 + 2 * sd] * 4)
    assert curve["null_low"].tolist() == pytest.approx([max(0, 1 - 2 * sd)] * 4)
    assert curve["low"].tolist() == curve["high"].tolist() == pytest.approx([1.6, 1.2, 0.8, 0.4])


def test_profile_averages_matrices_of_different_size_by_position() -> None:
    square = one_matrix([0.4, 0.3, 0.2, 0.1], [0.25] * 4, shape=(8, 8), concentration=0.5, name="a")
    tall = one_matrix([0.45, 0.05], [0.5] * 2, shape=(8, 4), concentration=0.5, name="b")
    curve = profile_curve(merged(square, tall), "left")
    # In quarters of the spectrum the square matrix expects 1/4 of its energy, the tall one 1/8.
    quarters = [(0.4 + 0.225) / 2, (0.3 + 0.225) / 2, (0.2 + 0.025) / 2, (0.1 + 0.025) / 2]
    assert curve["update"].tolist() == pytest.approx([share / (3 / 16) for share in quarters])
    sds = [haar_share(2, 8, 0.5).sd, haar_share(2, 8, 0.5).sd / 2]
    assert curve["null_high"].tolist() == pytest.approx([1 + 2 * np.hypot(*sds) / 2 / (3 / 16)] * 4)
    assert set(curve["matrices"]) == {2}


def test_profile_and_projection_agree_on_the_principal_half(lora: Tables) -> None:
    curve = profile_curve(lora, "right")
    lift = lifts(lora, ["step"], 0.5, 64).query("side == 'right' and subspace == 'principal'")["lift"].item()
    assert curve["update"][:8].mean() == pytest.approx(lift, rel=1e-12)


def test_cumulative_is_not_renormalized_to_the_span() -> None:
    tables = one_matrix([0.2, 0.1], [0.8, 0.2], shape=(16, 4), concentration=0.5)
    curve = cumulative_curve(tables, "left")
    assert curve["position"].tolist() == [0.0, 0.5, 1.0]
    assert curve["update"].tolist() == pytest.approx([0.0, 0.2, 0.3])
    assert curve["base"].tolist() == pytest.approx([0.0, 0.8, 1.0])
    assert curve["expected"].tolist() == pytest.approx([0.0, 2 / 16, 4 / 16])
    sds = [0.0, haar_share(2, 16, 0.5).sd, haar_share(4, 16, 0.5).sd]
    assert curve["null_high"].tolist() == pytest.approx(
        [e + 2 * s for e, s in zip([0, 2 / 16, 4 / 16], sds, strict=True)]
    )


def test_zero_updates_give_no_rows(untrained: Tables) -> None:
    assert profile_curve(untrained, "left").empty
    assert cumulative_curve(untrained, "right").empty


def test_matrices_without_an_update_are_left_out(lora: Tables) -> None:
    still = lora.profile.copy()
    still.loc[still["module"] == "model.layers.0.self_attn.q_proj", "update_share"] = np.nan
    tables = Tables(lora.modules, lora.projection, still, lora.spectrum, lora.series)
    assert set(profile_curve(tables, "left")["matrices"]) == {27}


@pytest.mark.parametrize("side", ["left", "right"])
def test_random_updates_stay_inside_the_band_as_often_as_they_should(side: str) -> None:
    curves = [profile_curve(make(Spec(steps=(1,), seed=seed)), side) for seed in range(20)]
    inside = np.mean([c["update"].between(c["null_low"], c["null_high"]).mean() for c in curves])
    # 95.4 % of normal values lie within two standard deviations; 320 correlated ones scatter by 1–2 %.
    assert 0.91 < inside < 0.99


def test_earlier_steps_can_be_asked_for(lora: Tables) -> None:
    assert not np.allclose(profile_curve(lora, "left", 16)["update"], profile_curve(lora, "left")["update"])


def test_unknown_side_is_an_error() -> None:
    with pytest.raises(UsageError, match="choose one of left, right"):
        check("top", Side, "side")


def test_widest_band_is_the_widest_at_every_position() -> None:
    wide = profile_curve(one_matrix([0.5, 0.5], [0.5, 0.5], shape=(8, 8), concentration=1.0), "left")
    tight = profile_curve(one_matrix([0.25] * 4, [0.25] * 4, shape=(8, 8), concentration=0.25), "left")
    band = widest_band({"wide": wide, "tight": tight})
    assert len(band) == 4
    assert (band["null_high"] >= tight["null_high"]).all()
    assert band["null_high"].max() == pytest.approx(max(wide["null_high"].max(), tight["null_high"].max()))
    assert widest_band({}).empty
