"""The doctor: bookkeeping checks of an adapter, a run or a checkpoint, from the files alone.

Each module is a family of checks: a function from a :class:`~spectra.analysis.doctor.case.Case` to its findings. None
needs peft, trl or transformers, and none stops the others.
"""

from spectra.analysis.doctor.diagnosis import Diagnosis
from spectra.analysis.doctor.examine import bookkeeping, examine

__all__ = ["Diagnosis", "bookkeeping", "examine"]
