import dataclasses

import numpy as np
import pytest
from matplotlib.axes import Axes

from spectra.errors import UsageError
from spectra.figures import drift, heatmap
from spectra.figures.plots.motion import ANGLES
from spectra.runs.tables import Tables
from tests.figures.synthetic_tables import Spec, make


def labelled(ax: Axes) -> dict[str, np.ndarray]:
    return {line.get_label(): line.get_xydata() for line in ax.lines}


def median(tables: Tables, column: str) -> np.ndarray:
    return tables.drift.groupby("step")[column].median().reset_index().to_numpy()


def test_panels_draw_medians_over_matrices(whole: Tables) -> None:
    shift, rho, kappa, angles = drift(whole)
    np.testing.assert_allclose(labelled(shift)["NSS (median)"], median(whole, "nss"), rtol=1e-12)
    np.testing.assert_allclose(labelled(rho)["ρ_Σ (median)"], median(whole, "rho_sigma"), rtol=1e-12)
    np.testing.assert_allclose(labelled(kappa)["κ_spec (median)"], median(whole, "kappa_spec"), rtol=1e-12)
    for k in ANGLES:
        np.testing.assert_allclose(labelled(angles)[f"k = {k}"], median(whole, f"angle_max_k{k}"), rtol=1e-12)
    assert all(ax.get_xlabel() == "training step" for ax in (shift, rho, kappa, angles))


def test_nulls_are_those_of_an_isotropic_update(whole: Tables) -> None:
    shift, rho, kappa, _ = drift(whole)
    rows = whole.drift.merge(whole.modules, on=["step", "module"]).query("step == 64")
    longest = np.maximum(rows["out_features"], rows["in_features"].astype(int))
    isotropic = (rows["relative_fro"] / np.sqrt(longest)).median()
    assert labelled(shift)["isotropic update"][-1] == pytest.approx([64, isotropic])
    assert labelled(kappa)["isotropic update: 1"][:, 1] == pytest.approx(1.0)
    [band] = [patch for patch in rho.patches if patch.get_label() == "1/√max(O, I)"]
    assert (band.get_y(), band.get_height()) == pytest.approx((1 / 16, 1 / np.sqrt(96) - 1 / 16))


def test_angles_stand_beside_noise_where_every_matrix_has_it(whole: Tables) -> None:
    drawn = labelled(drift(whole)[3])
    noise = whole.nulls.query("metric == 'angle_max_k4' and null == 'gaussian'").groupby("step")["expected"].median()
    np.testing.assert_allclose(drawn["Gaussian noise"], noise.reset_index().to_numpy())
    some = whole.nulls[whole.nulls["module"] != whole.nulls["module"].iloc[0]]
    assert "Gaussian noise" not in labelled(drift(dataclasses.replace(whole, nulls=some))[3])


def test_one_shape_has_a_line_for_its_null() -> None:
    rho = drift(make(Spec(layers=1, kinds=("q_proj",), deep=(64,))))[1]
    assert labelled(rho)["1/√max(O, I)"][:, 1] == pytest.approx(96**-0.5)


def test_the_rounding_error_is_drawn_near_the_curve_and_named_far_below(whole: Tables) -> None:
    shift = drift(whole)[0]
    assert labelled(shift)["rounding error 3×10⁻¹³, below"].size == 0
    near = dataclasses.replace(whole, drift=whole.drift.assign(nss_error=1e-5))
    shift = drift(near)[0]
    assert labelled(shift)["rounding error"][:, 1] == pytest.approx(1e-5)
    assert shift.get_yscale() == "log"


def test_zeros_do_not_break_a_logarithmic_axis(whole: Tables) -> None:
    still = whole.drift.assign(nss=whole.drift["nss"].where(whole.drift["step"] == 64, 0.0))
    shift = drift(dataclasses.replace(whole, drift=still))[0]
    assert labelled(shift)["NSS (median)"][:, 0].tolist() == [64]


def test_an_empty_table_says_so(lora: Tables) -> None:
    assert all("not computed" in ax.texts[0].get_text() for ax in drift(lora))
    with pytest.raises(UsageError, match="needs 4 axes, got 1"):
        drift(lora, axes=drift(lora)[:1])


def test_the_heat_map_of_kappa_is_centered_at_one_and_at_its_last_step(whole: Tables) -> None:
    ax = heatmap(whole, metric="kappa_spec")
    values = whole.drift.query("step == 64 and module == 'model.layers.2.mlp.up_proj'")["kappa_spec"]
    kinds = [tick.get_text() for tick in ax.get_xticklabels()]
    assert ax.images[0].get_array()[2, kinds.index("up_proj")] == pytest.approx(values.item())
    assert ax.images[0].norm(1.0) == pytest.approx(0.5)
    assert "isotropic update: 1" in ax.images[0].colorbar.ax.get_ylabel()


def test_a_heat_map_reads_the_deep_tables(whole: Tables, lora: Tables) -> None:
    assert heatmap(whole, metric="unchanged_bf16", step=32).images[0].get_array().shape == (4, 7)
    assert "undefined" in heatmap(lora, metric="nss").texts[0].get_text()
