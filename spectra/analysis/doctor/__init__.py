"""The doctor: checks of the files of an adapter, a run or a checkpoint, without a full analysis.

Each module is a family of checks: a function from a :class:`~spectra.analysis.doctor.case.Case` to its results. None
needs peft, trl or transformers, and a failure of one does not stop the others.
"""

from spectra.analysis.doctor.diagnosis import Diagnosis
from spectra.analysis.doctor.examine import bookkeeping, examine

__all__ = ["Diagnosis", "bookkeeping", "examine"]
