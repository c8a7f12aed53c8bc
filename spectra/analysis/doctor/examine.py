"""Examine a path with every family of checks."""

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
from spectra.analysis.doctor.case import MISREAD, Case, misread, open_case
from spectra.analysis.doctor.diagnosis import Diagnosis, skipped
from spectra.analysis.verdict.findings import Check
from spectra.errors import RunNotFoundError, SpectraError

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
    """Return what every check finds; what one cannot read does not stop the others.

    Parameters
    ----------
    path
        A run directory (ours, TRL's, verl's …), an adapter, or a full checkpoint.
    base
        Base model, directory or hub id; None takes the one that the run names.
    initial
        Step-0 adapter or residual base of a method that moves the base, where the run does not hold it.

    Raises
    ------
    RunNotFoundError
        If there is no such directory.
    """
    if not path.is_dir():
        raise RunNotFoundError("no such directory", where=path, hint="give the directory of a run")
    case = open_case(path, None if base is None else str(base), initial)
    checks = [found for name, family in FAMILIES for found in _checked(name, family, case)]
    recognized = "not recognized" if case.run is None else case.run.describe()
    return Diagnosis(path, recognized, tuple(checks))


def bookkeeping(path: Path, base: str | Path | None = None, initial: Path | None = None) -> list[Check]:
    """Return the findings of :func:`examine` for the verdict of an analysis.

    Every family costs a sample of matrices at most; nothing is left out.
    """
    return list(examine(path, base, initial).checks)


def _checked(name: str, family: Family, case: Case) -> list[Check]:
    try:
        return family(case)
    except SpectraError as error:
        return [files.fault(name, error)]
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # torch does not declare it
        return [skipped(name, "a decomposition failed: the weights hold numbers that are not finite")]
    except MISREAD as error:
        return [files.fault(name, misread(error, case.path))]
