"""How a whole matrix moves, against dense float64, 50 digits, known spectra and peft's own intruder search."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from spectra.linalg.decompositions.basis import decompose, thin_svd
from spectra.linalg.measures.motion import Motion, motion
from spectra.linalg.operators.basic import Dense, Difference, LowRank, Operator
from tests import oracles_motion as oracle
from tests.builders import matrix, randn
from tests.linalg.measures.test_memory import LargestResult

SHAPES = [(80, 80), (120, 80), (80, 120)]
CONDITIONS = [10.0, 1e4, 1e8]


def moved(weight: Tensor, update: Operator) -> Motion:
    return motion(weight, decompose(weight), update)


def scaled(delta: Tensor, weight: Tensor, size: float) -> Tensor:
    return delta * (size * float(torch.linalg.vector_norm(weight) / torch.linalg.vector_norm(delta)))


def update_of(kind: str, weight: Tensor, size: float) -> Operator:
    rows, columns = weight.shape
    if kind == "dense":
        return Dense(scaled(randn(rows, columns, seed=1), weight, size))
    b, a = randn(rows, 4, seed=2), randn(4, columns, seed=3)
    b = b * (size * torch.linalg.vector_norm(weight) / torch.linalg.vector_norm(b @ a))
    if kind == "low rank":
        return LowRank(b, a)
    start, also = randn(rows, 2, seed=4), randn(2, columns, seed=5)  # a method that moves the base by initialisation
    return Difference(
        LowRank(torch.cat([start + b[:, :2], b[:, 2:]], 1), torch.cat([also, a[2:]])), LowRank(start, also)
    )


@pytest.mark.parametrize("kind", ["low rank", "dense", "difference"])
@pytest.mark.parametrize("size", [1e-6, 1e-3, 0.1])
@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_number_equals_the_dense_one(shape: tuple[int, int], condition: float, size: float, kind: str) -> None:
    weight = matrix(*shape, condition=condition)
    update = update_of(kind, weight, size)
    found, expected = moved(weight, update), oracle.drift_row(weight.numpy(), update.dense().numpy())
    assert found.nss == pytest.approx(expected["nss"], rel=1e-12, abs=2 * found.nss_error)
    relative = float(torch.linalg.vector_norm(update.dense()) / torch.linalg.vector_norm(weight))
    floor = 2 * found.nss_error / relative
    assert found.rho_sigma == pytest.approx(expected["rho_sigma"], rel=1e-12, abs=floor)
    assert found.kappa_spec == pytest.approx(expected["kappa_spec"], rel=1e-9, abs=2 * max(shape) * floor)
    assert found.one_minus_cos == pytest.approx(expected["one_minus_cos"], rel=1e-8)
    for k in (1, 4, 16, 64):
        # eps·σ₁/(σ_k − σ_{k+1}) radians; the gaps of this base shrink as its values do.
        floor = 1e-9 if k < 64 else 1e-14 * condition + 1e-9
        assert found.angle_max[k] == pytest.approx(expected[f"angle_max_k{k}"], rel=1e-8, abs=floor)
        assert found.angle_mean[k] == pytest.approx(expected[f"angle_mean_k{k}"], rel=1e-8, abs=floor)
    assert found.rotation_head == pytest.approx(expected["rotation_head"], rel=1e-8, abs=1e-9)
    assert found.rotation_tail == pytest.approx(expected["rotation_tail"], rel=1e-6, abs=1e-12 * condition + 1e-9)
    assert found.intruders == expected["intruders"]
    assert found.intruder_energy == pytest.approx(expected["intruder_energy"], rel=1e-10)


@pytest.mark.parametrize("size", [1e-10, 1e-3])
@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("shape", [(10, 10), (15, 10), (10, 15)])
def test_against_fifty_digits(shape: tuple[int, int], condition: float, size: float) -> None:
    weight = matrix(*shape, condition=condition)
    delta = scaled(randn(*shape, seed=4), weight, size)
    found, expected = moved(weight, Dense(delta)), oracle.precise_drift(weight.numpy(), delta.numpy(), 4)
    assert abs(found.nss - expected["nss"]) < found.nss_error
    # Whatever the condition: the gap behind the leading directions is what counts.
    assert found.angle_max[4] == pytest.approx(expected["angle_max"], rel=1e-12, abs=math.degrees(1e-14))
    head, tail = expected["rotations"][:1], expected["rotations"][-1:]
    assert found.rotation_head == pytest.approx(np.median(head), rel=1e-12, abs=math.degrees(1e-14))
    assert found.rotation_tail == pytest.approx(np.median(tail), rel=1e-8, abs=math.degrees(1e-15) * condition)


@pytest.mark.parametrize("least", [2.0**20, 1.0])  # condition 128 and 1.3e8
@pytest.mark.parametrize("shape", [(256, 256), (64, 1024), (1024, 64), (16, 4096)])
def test_rounding_bound_holds_against_known_spectra(shape: tuple[int, int], least: float) -> None:
    q = min(shape)
    before = np.floor(np.geomspace(2.0**27, least, q))
    growth = np.random.default_rng(1).integers(0, 3, q).astype(float)
    weight = torch.from_numpy(oracle.known_spectrum(before, *shape, seed=2))
    delta = torch.from_numpy(oracle.known_spectrum(growth, *shape, seed=2))
    found = moved(weight, Dense(delta))
    exact = np.linalg.norm(np.sort(before + growth)[::-1] - before) / np.linalg.norm(before)
    assert abs(found.nss - exact) < found.nss_error < 1e-6 * exact


def test_nss_of_a_growth_is_known() -> None:
    weight = matrix(12, 30, condition=1e4)
    found = moved(weight, Dense(1e-9 * weight))
    assert abs(found.nss - 1e-9) < found.nss_error < 1e-13
    assert found.rho_sigma == pytest.approx(1, rel=1e-5)
    assert found.one_minus_cos < 1e-30


@pytest.mark.parametrize("shape", [(60, 90), (90, 60), (70, 70)])
def test_small_noise_has_kappa_one(shape: tuple[int, int]) -> None:
    weight, draws = randn(*shape), 40
    basis = decompose(weight)
    found = [motion(weight, basis, Dense(1e-5 * randn(*shape, seed=seed))) for seed in range(1, draws + 1)]
    kappas = np.array([one.kappa_spec for one in found])
    # To first order κ is a mean of q squared normal numbers; q·draws of them in all.
    assert np.mean(kappas) == pytest.approx(1, abs=4 * math.sqrt(2 / (min(shape) * draws)))
    assert all(one.rho_sigma == pytest.approx(1 / math.sqrt(max(shape)), rel=0.5) for one in found)
    assert all(one.rho_sigma == pytest.approx(math.sqrt(one.kappa_spec / max(shape))) for one in found)


@pytest.mark.parametrize("size", [1e-9, 1e-4, 0.5, 3.0])
@pytest.mark.parametrize("kind", ["low rank", "dense", "difference"])
def test_one_minus_cos_is_exact(kind: str, size: float) -> None:
    weight = matrix(12, 20, condition=1e6)
    update = update_of(kind, weight, size)
    expected = oracle.one_minus_cos(weight.numpy(), update.dense().numpy())
    assert moved(weight, update).one_minus_cos == pytest.approx(expected, rel=1e-13)


def test_one_minus_cos_of_an_update_along_the_weight() -> None:
    weight = matrix(12, 20, condition=1e3)
    nearly = 1e-3 * weight + 1e-9 * randn(12, 20)
    expected = oracle.one_minus_cos(weight.numpy(), nearly.numpy())
    assert moved(weight, Dense(nearly)).one_minus_cos == pytest.approx(expected, rel=1e-8)
    assert moved(weight, Dense(-3 * weight)).one_minus_cos == 2
    assert math.isnan(moved(weight, Dense(-weight)).one_minus_cos)


@pytest.mark.parametrize("radians", [1e-10, 1e-6, 0.3])
def test_a_planted_rotation(radians: float) -> None:
    """Both sides turn by that angle in the plane of the 4th and the 9th direction; the spectrum stays."""
    q = 12
    u, v = torch.linalg.qr(randn(q, q))[0], torch.linalg.qr(randn(20, q, seed=1))[0]
    sigma = torch.arange(q, 0, -1, dtype=torch.float64)
    minus_identity = torch.zeros(q, q, dtype=torch.float64)
    minus_identity[3, 3] = minus_identity[8, 8] = -2 * math.sin(radians / 2) ** 2
    minus_identity[3, 8], minus_identity[8, 3] = math.sin(radians), -math.sin(radians)
    core = minus_identity * sigma + (sigma[:, None] * minus_identity.T)
    core = core + minus_identity @ (sigma[:, None] * minus_identity.T)
    found = moved((u * sigma) @ v.T, Dense(u @ core @ v.T))
    assert found.angle_max[4] == pytest.approx(math.degrees(radians), rel=1e-4)
    assert found.angle_mean[4] == pytest.approx(math.degrees(radians) / 4, rel=1e-4)
    assert max(found.angle_max[1], found.rotation_head) < 1e-12
    assert found.nss < found.nss_error


@pytest.mark.parametrize("shape", [(4, 4), (4, 10), (10, 4)])
def test_spaces_that_hold_everything_do_not_turn(shape: tuple[int, int]) -> None:
    weight, delta = matrix(*shape), 0.1 * randn(*shape, seed=1)
    found, expected = moved(weight, Dense(delta)), oracle.drift_row(weight.numpy(), delta.numpy())
    assert found.angle_max[4] == pytest.approx(expected["angle_max_k4"], abs=1e-12)
    assert found.angle_mean[4] == pytest.approx(expected["angle_mean_k4"], abs=1e-12)
    assert (found.angle_max[4] == 0) == (shape == (4, 4))
    assert math.isnan(found.angle_max[16]) and math.isnan(found.angle_mean[64])


@pytest.mark.parametrize(
    "update",
    [
        Dense(torch.zeros(12, 20)),
        LowRank(torch.zeros(12, 2), randn(2, 20)),
        Difference(LowRank(randn(12, 2), randn(2, 20, seed=1)), LowRank(randn(12, 2), randn(2, 20, seed=1))),
        # Equal but for the rounding of its entries: zero, as its own SVD says.
        Difference(LowRank(randn(12, 2), randn(2, 20, seed=1)), LowRank(3 * randn(12, 2), randn(2, 20, seed=1) / 3)),
    ],
    ids=["dense", "low rank", "difference", "difference within rounding"],
)
def test_nothing_moves_without_an_update(update: Operator) -> None:
    found = moved(matrix(12, 20), update)
    still = ("nss", "nss_error", "one_minus_cos", "rotation_head", "rotation_tail", "intruders", "intruder_energy")
    assert {name: getattr(found, name) for name in still} == dict.fromkeys(still, 0)
    assert found.angle_max == found.angle_mean
    assert found.angle_max[4] == 0 and math.isnan(found.angle_max[16])
    assert math.isnan(found.rho_sigma) and math.isnan(found.kappa_spec)


def test_degenerate_bases_are_measured_without_a_crash() -> None:
    equal = torch.eye(20, dtype=torch.float64)
    assert 0 <= moved(equal, Dense(1e-3 * randn(20, 20))).angle_max[4] <= 90
    singular = randn(20, 6) @ randn(6, 30, seed=1)
    found = moved(singular, LowRank(1e-3 * randn(20, 2, seed=2), randn(2, 30, seed=3)))
    assert found.angle_max[4] > 0 and math.isnan(found.angle_max[16])
    assert found.rotation_head > 0 and math.isnan(found.rotation_tail)
    assert moved(singular, Dense(-singular)).nss == pytest.approx(1)
    from_nothing = moved(torch.zeros(5, 8, dtype=torch.float64), Dense(randn(5, 8)))
    assert math.isnan(from_nothing.nss) and math.isnan(from_nothing.one_minus_cos)
    assert from_nothing.rho_sigma == pytest.approx(1)
    assert math.isnan(from_nothing.angle_max[1]) and math.isnan(from_nothing.rotation_head)


@pytest.mark.parametrize("shape", [(40, 60), (60, 40)])
def test_a_change_of_basis_changes_nothing(shape: tuple[int, int]) -> None:
    weight, delta = matrix(*shape, condition=1e3), 5e-2 * randn(*shape, seed=1)
    p, q = (torch.linalg.qr(randn(size, size, seed=size))[0] for size in shape)
    here, there = moved(weight, Dense(delta)), moved(p @ weight @ q, Dense(p @ delta @ q))
    assert_same_motion(here, there, rel=1e-9)
    assert here.rotation_head == pytest.approx(there.rotation_head, rel=1e-9)
    assert here.rotation_tail == pytest.approx(there.rotation_tail, rel=1e-7)
    assert here.intruders == there.intruders > 0
    bigger = moved(8 * weight, Dense(8 * delta))
    assert_same_motion(here, bigger, rel=1e-12)


def test_transposing_exchanges_the_sides() -> None:
    weight, delta = matrix(40, 60, condition=1e3), 1e-2 * randn(40, 60, seed=1)
    assert_same_motion(moved(weight, Dense(delta)), moved(weight.T, Dense(delta.T)), rel=1e-12)


def assert_same_motion(one: Motion, other: Motion, *, rel: float) -> None:
    for name in ("nss", "rho_sigma", "kappa_spec", "one_minus_cos"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=rel), name
    assert one.angle_max == pytest.approx(other.angle_max, rel=rel, abs=1e-12, nan_ok=True)
    assert one.angle_mean == pytest.approx(other.angle_mean, rel=rel, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize(("rows", "columns"), [(256, 6144), (6144, 256)])
def test_streaming_forms_nothing_of_the_size_of_a_long_base(rows: int, columns: int) -> None:
    weight = randn(rows, columns)
    basis = decompose(weight)
    with LargestResult(weight) as largest:
        motion(weight, basis, LowRank(1e-3 * randn(rows, 4, seed=1), randn(4, columns, seed=2)))
    assert 0 < largest.numbers < weight.numel() // 2


def test_planted_intruders() -> None:
    """New directions above the spectrum are intruders; stronger old ones are not."""
    weight = matrix(40, 60)
    factors = thin_svd(weight)
    left, right = torch.linalg.qr(randn(40, 3))[0], torch.linalg.qr(randn(60, 3, seed=1))[0]
    # On a basis of 40 directions a random one of norm 1 is spread out: no cosine reaches one half.
    assert float((factors.u.T @ left).abs().max()) < 0.5
    new = moved(weight, LowRank(100 * left, right.T))
    assert new.intruders == 3
    assert new.intruder_energy == pytest.approx(1, abs=2e-3)
    old = moved(weight, LowRank(100 * factors.u[:, :3], factors.v[:, :3].T))
    assert (old.intruders, old.intruder_energy) == (0, 0)


def test_intruders_are_those_that_peft_finds() -> None:
    """peft's own function says a count for each layer of a LoRA model; one call, no copy of its formula."""
    from peft.tuners.lora.intruders import reduce_intruder_dimension

    model = _lora_model()
    lines: list[str] = []
    updates = _updates(model)
    reduce_intruder_dimension(model, logging_sink=lines.append)
    theirs = {name: int(text.removeprefix("Intruders: ").replace("No intruders", "0")) for name, text in _said(lines)}
    ours = {name: moved(weight, update).intruders for name, (weight, update) in updates.items()}
    assert ours == theirs
    assert len(set(ours.values())) >= 4  # none, some, and many


def _lora_model() -> Any:
    from peft import LoraConfig, get_peft_model

    shapes = [(24, 24), (24, 40), (40, 24), (24, 48), (48, 48), (48, 8)]
    layers = torch.nn.Sequential(*(torch.nn.Linear(columns, rows, bias=False) for columns, rows in shapes))
    for number, (layer, (columns, rows)) in enumerate(zip(layers, shapes, strict=True)):
        layer.weight.data = matrix(rows, columns, condition=30, seed=number)
    names = [str(number) for number in range(len(shapes))]
    model = get_peft_model(layers, LoraConfig(r=4, lora_alpha=8, target_modules=names)).double()
    for number, (name, parameter) in enumerate(
        (name, parameter) for name, parameter in model.named_parameters() if "lora_" in name
    ):
        grown = 0.002 * 2.5 ** (number // 2) if "lora_B" in name else 1.0
        parameter.data = grown * randn(*parameter.shape, seed=100 + number)
    return model


def _updates(model: Any) -> dict[str, tuple[Tensor, Operator]]:
    return {
        name: (
            layer.base_layer.weight.data,
            LowRank(layer.lora_B["default"].weight.data, layer.lora_A["default"].weight.data, layer.scaling["default"]),
        )
        for name, layer in model.named_modules()
        if hasattr(layer, "lora_A")
    }


def _said(lines: list[str]) -> list[tuple[str, str]]:
    return [(name, text) for name, colon, text in (line.partition(": ") for line in lines) if colon]
