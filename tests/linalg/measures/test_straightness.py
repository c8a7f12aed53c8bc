import math

import pytest
import torch

from spectra.linalg.measures.straightness import StreamedStraightness, random_walk_straightness, straightness
from tests import oracles_relations as oracle
from tests.builders import randn

STEPS = [0, 3, 4, 10, 11, 64]


def updates(kind: str) -> list[torch.Tensor]:
    """A walk, a line with noise, one far from the origin, and a nearly straight one."""
    noise = {"walk": 1.0, "line": 5.0, "far": 1.0, "straight": 1e-6}[kind]
    far = 1e4 * randn(20, 30, seed=99) if kind == "far" else torch.zeros(20, 30, dtype=torch.float64)
    line = 0.0 if kind == "walk" else 1.0
    walk = torch.cumsum(torch.stack([randn(20, 30, seed=s) for s in range(len(STEPS))]), 0)
    return [far + line * step * randn(20, 30, seed=50) + noise * walk[n] for n, step in enumerate(STEPS)]


@pytest.mark.parametrize("kind", ["walk", "line", "far", "straight"])
def test_both_ways_are_the_least_squares_line(kind: str) -> None:
    given = updates(kind)
    flat = torch.stack([update.flatten() for update in given])
    path = StreamedStraightness()
    # Inner products lose the square of how much farther the origin is than the path is long.
    error = 1e-6 if kind == "far" else 1e-10
    for count, (step, update) in enumerate(zip(STEPS, given, strict=True), start=1):
        running = path.add(step, update)
        expected = oracle.pooled_r2(STEPS[:count], [u.numpy() for u in given[:count]])
        from_gram = straightness(STEPS[:count], flat[:count] @ flat[:count].T)
        assert from_gram == pytest.approx(expected, abs=error, nan_ok=True)
        assert running == pytest.approx(expected, abs=1e-10, nan_ok=True)


def test_a_walk_is_known_exactly() -> None:
    for count in range(2, len(STEPS) + 1):
        assert random_walk_straightness(STEPS[:count]) == pytest.approx(oracle.walk_r2(STEPS[:count]), abs=1e-12)
    assert math.isnan(random_walk_straightness(STEPS[:1]))
    assert random_walk_straightness(range(2000)) == pytest.approx(0.6, abs=1e-3)
    # Time has no unit.
    assert random_walk_straightness([0, 30, 40]) == pytest.approx(random_walk_straightness([0, 3, 4]))


def test_nothing_moves_no_line() -> None:
    still = randn(4, 5, seed=1)
    path = StreamedStraightness()
    assert all(math.isnan(path.add(step, still)) for step in (1, 2, 3))
    assert math.isnan(straightness([1, 2, 3], torch.full((3, 3), 7.0, dtype=torch.float64)))
    assert math.isnan(straightness([1, 2, 3], torch.zeros(3, 3, dtype=torch.float64)))


def test_what_is_added_stays_as_it_is() -> None:
    update = randn(4, 5, seed=1)
    kept = update.clone()
    path = StreamedStraightness()
    path.add(0, update)
    path.add(1, randn(4, 5, seed=2))
    assert torch.equal(update, kept)
