"""The model that an evaluation asks, of one snapshot of a run."""

from pathlib import Path

from spectra.training.evaluation.snapshot_model import EvaluatedModel
from spectra.weights.opened_run import OpenedRun


def evaluated_model(
    run: Path, *, step: int | None = None, base: str | None = None, initial: Path | None = None
) -> EvaluatedModel:
    """Return the model of a step; None is the last."""
    return EvaluatedModel.of(OpenedRun.open(run, base, initial), step)
