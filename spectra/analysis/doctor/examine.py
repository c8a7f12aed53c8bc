"""Run every family of checks on a path."""

from collections.abc import Callable
from pathlib import Path

import torch

from spectra.analysis.doctor import (
    declared_method,
    files,
    full_checkpoint,
    identity,
    labels,
    learning_rate,
    merge_drift,
    merged,
    reload,
    targets,
)
from spectra.analysis.doctor.case import MISREAD, Case, case_of, misread, open_case
from spectra.analysis.doctor.diagnosis import Diagnosis, skipped
from spectra.analysis.verdict.findings import Check
from spectra.errors import RunNotFoundError, SpectraError
from spectra.weights.opened_run import OpenedRun

Family = Callable[[Case], list[Check]]

FAMILIES: tuple[tuple[str, Family], ...] = (
    (files.NAME, files.check),
    (labels.NAME, labels.check),
    (targets.NAME, targets.check),
    (declared_method.NAME, declared_method.check),
    (identity.NAME, identity.check),
    (reload.NAME, reload.check),
    (full_checkpoint.NAME, full_checkpoint.check),
    (merged.NAME, merged.check),
    (merge_drift.NAME, merge_drift.check),
    (learning_rate.NAME, learning_rate.check),
)


def examine(path: Path, base: str | Path | None = None, initial: Path | None = None) -> Diagnosis:
    """Return the results of all checks; a check that cannot read its files does not stop the others.

    Parameters
    ----------
    path
        A run directory (of spectra, TRL, verl, …), an adapter, or a full checkpoint.
    base
        Base model, directory or Hub id; None uses the one that the run names.
    initial
        Step-0 adapter or residual base of a method whose initialization changes the base, if the run does not
        contain it.

    Raises
    ------
    RunNotFoundError
        If there is no such directory.
    """
    if not path.is_dir():
        raise RunNotFoundError("no such directory", where=path, hint="give the directory of a run")
    case = open_case(path, None if base is None else str(base), initial)
    recognized = "not recognized" if case.run is None else case.run.describe()
    return Diagnosis(path, recognized, tuple(_findings(case)))


def bookkeeping(opened: OpenedRun) -> list[Check]:
    """Return the checks of :func:`examine` of an opened run, for the verdict of an analysis.

    Every family reads at most a sample of the matrices; all families run.
    """
    return _findings(case_of(opened))


def _findings(case: Case) -> list[Check]:
    return [found for name, family in FAMILIES for found in _checked(name, family, case)]


def _checked(name: str, family: Family, case: Case) -> list[Check]:
    try:
        return family(case)
    except SpectraError as error:
        return [files.fault(name, error)]
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # torch does not declare it
        return [skipped(name, "a decomposition failed: the weights contain NaN or infinity")]
    except MISREAD as error:
        return [files.fault(name, misread(error, case.path))]
