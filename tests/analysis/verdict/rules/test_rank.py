"""A rank that was lost, and ranks that were low all along."""

from spectra.analysis.verdict.rules.rank import rank_collapsed
from tests.analysis.verdict.rules.rule_tables import made

STEPS = (10, 20, 30, 40, 50, 60)


def test_a_rank_that_falls_to_one_is_a_collapse() -> None:
    found = rank_collapsed(
        made(
            STEPS,
            effective_rank_energy=lambda step: 3.5 if step <= 30 else 1.2,
            top1_energy=lambda step: 0.4 if step <= 30 else 0.96,
        )
    )
    assert (found.verdict, found.earliest, found.onset) == ("rank_collapsed", 31, 40)
    assert (found.evidence[0].value, found.evidence[0].null, found.evidence[0].threshold) == (1.2, 3.5, 2.25)


def test_a_rank_that_is_low_from_the_start_is_a_fact() -> None:
    assert rank_collapsed(made(STEPS, effective_rank_energy=1.1, top1_energy=0.98)).verdict is None


def test_a_method_of_rank_one_cannot_lose_it() -> None:
    assert rank_collapsed(made(STEPS, effective_rank_energy=1.0, top1_energy=1.0, rank_bound=1)).evidence == ()


def test_a_rank_that_falls_with_energy_left_elsewhere_is_a_fact() -> None:
    found = rank_collapsed(
        made(STEPS, effective_rank_energy=lambda step: 12 - step / 6, top1_energy=0.6, rank_bound=16)
    )
    assert found.verdict is None
    assert (found.evidence[0].null, found.evidence[0].value) == (12 - 10 / 6, 2.0)


def test_growth_over_the_rounding_of_the_storage_is_no_loss_of_rank() -> None:
    """Rank 1 in bfloat16 checkpoints: at first ΔW is mostly rounding, of full rank."""
    assert (
        rank_collapsed(
            made(
                STEPS,
                relative_fro=lambda step: 1e-4 * step,
                rounding_fro=0.01,
                effective_rank_energy=lambda step: 3.5 if step <= 20 else 1.2,
                top1_energy=lambda step: 0.4 if step <= 20 else 0.96,
                rank_bound=24,
            )
        ).verdict
        is None
    )


def test_one_snapshot_says_nothing_of_a_fall() -> None:
    assert rank_collapsed(made((60,), effective_rank_energy=1.1, top1_energy=0.98)).evidence == ()
