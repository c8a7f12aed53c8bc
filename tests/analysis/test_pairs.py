import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from spectra.analysis.pairs import COLUMNS, compare_updates, pair_rows, summarize_pairs
from spectra.analysis.pipeline.plan import make_plan
from spectra.analysis.tables.coordinates import BaseCoordinates
from spectra.linalg.decompositions.basis import decompose
from spectra.linalg.operators.basic import Dense, LowRank, Operator, RowScaled, Sum
from spectra.weights.opened_run import OpenedRun
from tests import oracles_relations as oracle
from tests.builders import matrix, own_run, randn, small_base

SHAPES = {"square": (30, 30), "tall": (60, 24), "wide": (24, 60)}


def lora(shape: tuple[int, int], seed: int, rank: int = 4) -> Operator:
    return LowRank(randn(shape[0], rank, seed=seed) * 1e-3, randn(rank, shape[1], seed=seed + 50))


def dora(shape: tuple[int, int], seed: int) -> Operator:
    scales = 1 + 1e-3 * randn(shape[0], seed=seed)
    return Sum(RowScaled(scales - 1, Dense(matrix(*shape, seed=3))), RowScaled(scales, lora(shape, seed)))


MAKE: dict[str, Callable[[tuple[int, int], int], Operator]] = {
    "lora": lora,
    "dora": dora,
    "dense": lambda shape, seed: Dense(randn(*shape, seed=seed)),
    "ill-conditioned": lambda shape, seed: Dense(matrix(*shape, condition=1e8, seed=seed)),
}


def rows_of(updates: Mapping[str, Operator], coordinates: BaseCoordinates | None = None) -> pd.DataFrame:
    rows = pair_rows({name: (lambda update=update: update) for name, update in updates.items()}, coordinates)
    return pd.DataFrame(rows).set_index(["run_a", "run_b"])


def coordinates_of(weight: torch.Tensor) -> BaseCoordinates:
    return BaseCoordinates(weight, decompose(weight))


@pytest.mark.parametrize("shape", SHAPES)
def test_every_pair_is_that_of_the_dense_oracle(shape: str) -> None:
    size = SHAPES[shape]
    updates = {name: make(size, number) for number, (name, make) in enumerate(MAKE.items())}
    weight = matrix(*size, condition=1e4, seed=9).to(torch.bfloat16).to(torch.float64)
    found = rows_of(updates, coordinates_of(weight))
    assert len(found) == 6
    assert set(found.columns) | {"run_a", "run_b", "module"} == set(COLUMNS)
    for (a, b), row in found.iterrows():
        x, y = updates[a].dense(), updates[b].dense()
        left, right, count = oracle.subspaces(x.numpy(), y.numpy())
        assert row["cosine"] == pytest.approx(oracle.cosine(x.numpy(), y.numpy()), rel=1e-9)
        assert row["z_cosine"] == pytest.approx(row["cosine"] * math.sqrt(weight.numel()))
        assert (row["subspace_left"], row["subspace_right"]) == pytest.approx((left, right), rel=1e-7)
        assert (row["expected_subspace_left"], row["expected_subspace_right"]) == (count / size[0], count / size[1])
        seen = [((weight + z).to(torch.bfloat16) != weight.to(torch.bfloat16)).numpy() for z in (x, y)]
        assert row["jaccard"] == pytest.approx(oracle.jaccard(*seen), abs=1e-3)


def test_the_same_update_agrees_with_itself() -> None:
    one = lora((30, 50), 1)
    row = rows_of({"a": one, "b": one}).iloc[0]
    assert row["cosine"] == pytest.approx(1, abs=1e-12)
    assert (row["subspace_left"], row["subspace_right"]) == pytest.approx((1, 1))
    assert math.isnan(row["jaccard"]) and math.isnan(row["expected_jaccard"])


@pytest.mark.parametrize("make", ["lora", "dense", "ill-conditioned"])
def test_nulls_are_those_of_random_orientations(make: str) -> None:
    """The z of updates whose singular vectors are drawn at random have mean 0 and variance 1."""
    rows = []
    for seed in range(150):
        turn = [
            torch.linalg.qr(randn(size, size, seed=7000 + 2 * seed + number))[0] for number, size in enumerate((20, 30))
        ]
        turned = Dense(turn[0] @ MAKE[make]((20, 30), 1).dense() @ turn[1])
        rows.append(rows_of({"a": MAKE[make]((20, 30), 2), "b": turned}).iloc[0])
    found = pd.DataFrame(rows)
    for column in ("z_cosine", "z_subspace_left", "z_subspace_right"):
        assert abs(found[column].mean()) < 4 / math.sqrt(150)
        assert found[column].var() == pytest.approx(1, abs=0.5), column


def test_two_seeds_with_common_directions_are_found() -> None:
    shared = 3 * LowRank(randn(80, 2, seed=1), randn(2, 120, seed=2)).dense()
    planted = {seed: Dense(shared + 0.5 * randn(80, 120, seed=number)) for number, seed in enumerate("ab", 10)}
    apart = {seed: Dense(randn(80, 120, seed=number)) for number, seed in enumerate("ab", 20)}
    found, none = rows_of(planted).iloc[0], rows_of(apart).iloc[0]
    assert found["z_cosine"] > 50 and found["z_subspace_left"] > 5 and found["z_subspace_right"] > 5
    assert abs(none["z_cosine"]) < 4 and abs(none["z_subspace_left"]) < 4 and abs(none["z_subspace_right"]) < 4


def test_noise_through_the_cast_meets_more_often_than_masks_placed_anywhere() -> None:
    weight = randn(100, 120, seed=1).mul(0.02).to(torch.bfloat16).to(torch.float64)
    coordinates = coordinates_of(weight)
    size = 1e-3 * 0.02
    found = [
        rows_of(
            {"a": Dense(size * randn(100, 120, seed=100 + s)), "b": Dense(size * randn(100, 120, seed=900 + s))},
            coordinates,
        )
        for s in range(20)
    ]
    rows = pd.concat(found)
    assert (rows["z_jaccard"] > 10).all()
    assert abs(rows["z_jaccard_noise"].mean()) < 4 / math.sqrt(20)
    assert rows["jaccard"].mean() == pytest.approx(rows["expected_jaccard_noise"].mean(), rel=0.03)


def test_masks_of_the_same_density_are_compared_with_the_hypergeometric() -> None:
    weight = randn(16, 16, seed=1)
    updates = {name: Dense((randn(16, 16, seed=s) > 0.5) * 0.1 * weight) for name, s in (("a", 3), ("b", 4))}
    row = rows_of(updates, coordinates_of(weight)).iloc[0]
    masks = [update.dense().numpy() != 0 for update in updates.values()]
    mean, sd = oracle.hypergeometric(256, int(masks[0].sum()), int(masks[1].sum()))
    both = (masks[0] & masks[1]).sum()
    assert row["jaccard"] == oracle.jaccard(*masks)
    assert row["expected_jaccard"] == pytest.approx(mean / (masks[0].sum() + masks[1].sum() - mean), rel=1e-12)
    assert row["z_jaccard"] == pytest.approx((both - mean) / sd, rel=0.15, abs=0.1)


def test_zero_and_broken_updates() -> None:
    zero, broken = Dense(torch.zeros(30, 40)), Dense(torch.full((30, 40), math.nan))
    found = rows_of({"zero": zero, "broken": broken, "fine": lora((30, 40), 1)}, coordinates_of(randn(30, 40)))
    assert list(found.index) == [("zero", "fine")]
    row = found.iloc[0]
    undefined = ("cosine", "z_cosine", "subspace_left", "z_subspace_left", "expected_subspace_right")
    assert all(math.isnan(row[column]) for column in undefined)
    assert row["jaccard"] == 0 and math.isnan(row["expected_jaccard_noise"])


def test_runs_are_compared_module_by_module(tmp_path: Path) -> None:
    base = small_base(tmp_path / "base")
    plans = {
        name: make_plan(OpenedRun.open(own_run(tmp_path / name, base, steps=steps)))
        for name, steps in (("a", (0, 2)), ("b", (0, 4)), ("c", (0, 3)))
    }
    found = compare_updates(plans, None)
    assert found.notes == ()
    assert list(found.pairs.columns) == list(COLUMNS)
    assert found.pairs.groupby(["run_a", "run_b"]).size().to_dict() == {("a", "b"): 6, ("a", "c"): 6, ("b", "c"): 6}
    assert found.pairs["cosine"].to_numpy() == pytest.approx(1)  # the same directions, at another size


def test_runs_on_other_bases_are_not_compared(tmp_path: Path) -> None:
    bases = {
        "a": small_base(tmp_path / "one"),
        "b": small_base(tmp_path / "copy"),
        "c": small_base(tmp_path / "x", seed=5),
    }
    plans = {name: make_plan(OpenedRun.open(own_run(tmp_path / name, base))) for name, base in bases.items()}
    found = compare_updates(plans, None)
    assert set(zip(found.pairs["run_a"], found.pairs["run_b"], strict=True)) == {("a", "b")}
    assert found.notes == ("a and b and c have different base models: their updates are not compared",)
    alone = compare_updates({name: plans[name] for name in ("a", "c")}, None)
    assert alone.pairs.empty and list(alone.pairs.columns) == list(COLUMNS) and len(alone.notes) == 1


def test_a_summary_has_intervals_over_layers_and_says_what_is_the_initialization() -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"run_a": "a", "run_b": "b", "module": f"model.layers.{layer}.{kind}", **dict.fromkeys(COLUMNS[3:], 0.1)}
        | {"cosine": rng.normal(0.3, 0.1), "jaccard": math.nan}
        for layer in range(4)
        for kind in "qk"
    ]
    sides = {"a": frozenset({"right"}), "b": frozenset({"left", "right"})}
    found = summarize_pairs(pd.DataFrame(rows), sides).set_index("metric")
    assert list(found.index) == ["cosine", "subspace_left", "subspace_right"]
    assert found.loc["cosine", "lo"] < 0.3 < found.loc["cosine", "hi"]
    assert found.loc["cosine", "matrices"] == 8 and found.loc["subspace_left", "expected"] == pytest.approx(0.1)
    assert found["note"].tolist()[1] == ""
    assert found.loc["subspace_right", "note"].startswith(
        "the right side of both runs has not left its initial subspace"
    )
    assert summarize_pairs(pd.DataFrame(columns=list(COLUMNS)), {}).empty
