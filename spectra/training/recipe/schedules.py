"""Recipe sections for when a run is saved and evaluated."""

from pydantic import Field, model_validator

from spectra.config import KeyFault, Section


class SnapshotRecipe(Section):
    """Snapshot schedule: ``every`` N steps, or ``log_spaced`` steps. Step 0 and the last step are always saved.

    Attributes
    ----------
    every
        Distance in steps.
    log_spaced
        Number of snapshots after step 0, spaced by a constant ratio: most of the change of ΔW happens early.
    """

    every: int | None = Field(default=None, ge=1)
    log_spaced: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _one(self) -> "SnapshotRecipe":
        if (self.every is None) == (self.log_spaced is None):
            raise KeyFault("every", "set one of snapshots.every and snapshots.log_spaced; the other must be null")
        return self

    def schedule(self, last: int) -> list[int]:
        """Return the steps to save, from 0 to ``last``.

        >>> SnapshotRecipe(every=4).schedule(10)
        [0, 4, 8, 10]
        >>> SnapshotRecipe(log_spaced=4).schedule(64)
        [0, 1, 4, 16, 64]
        """
        if self.every is not None:
            return sorted({*range(0, last, self.every), last})
        return [0, *log_spaced(last, self.log_spaced or 1)]


class CheckpointRecipe(Section):
    """Resumable trainer state.

    Attributes
    ----------
    every
        Interval in steps; null saves none, and a killed run starts over.
    keep
        Number of newest checkpoints to keep.
    """

    every: int | None = Field(default=10, ge=1)
    keep: int = Field(default=2, ge=1)


class EvaluationRecipe(Section):
    """Accuracy on held-out problems during training: at step 0, ``every`` N steps, and at the last step.

    Attributes
    ----------
    every
        Interval in steps; null disables evaluation.
    problems
        Evaluate only the first N held-out problems.
    samples
        Completions per problem.
    temperature
        Sampling temperature; without top-k or top-p.
    batch_size
        Completions generated at once. Fewer need less memory.
    """

    every: int | None = Field(default=20, ge=1)
    problems: int = Field(default=100, ge=1)
    samples: int = Field(default=4, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    batch_size: int = Field(default=256, ge=1)

    def due(self, step: int, last: int) -> bool:
        """Return whether ``step`` of a run of ``last`` steps is evaluated."""
        return self.every is not None and (step % self.every == 0 or step == last)


def log_spaced(last: int, count: int) -> list[int]:
    """Return ``count`` distinct steps from 1 to ``last`` with a constant ratio; needs ``count`` ≤ ``last``.

    >>> log_spaced(100, 5), log_spaced(5, 5), log_spaced(7, 1)
    ([1, 3, 10, 32, 100], [1, 2, 3, 4, 5], [7])
    """
    steps: list[int] = []
    for index in range(count):
        ideal = last ** (index / (count - 1)) if count > 1 else last
        # Early ideals lie closer than one step; moving them up never overshoots, as the ideals are convex in index.
        steps.append(max(round(ideal), steps[-1] + 1 if steps else 1))
    return steps
