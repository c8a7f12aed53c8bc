"""Whether the files of the run exist, are complete and readable."""

from pathlib import Path

from spectra.analysis.doctor.case import Case
from spectra.analysis.doctor.diagnosis import fact, ok
from spectra.analysis.verdict.findings import Check
from spectra.errors import CorruptFileError, SpectraError
from spectra.runs.layout import ADAPTER_CONFIG, ADAPTER_PICKLE, ADAPTER_WEIGHTS, RunLayout
from spectra.runs.snapshots import NO_WEIGHTS

NAME = "files"


def check(case: Case) -> list[Check]:
    """Find snapshots that are missing, empty, truncated, in the wrong format or without their configuration."""
    found = [*_not_opened(case), *_orphans(case), *_ignored(case), *_torn(case), *_pickled(case)]
    if found or case.run is None:
        return found
    return [ok(NAME, f"{case.run.describe()}; all files can be read")]


def _not_opened(case: Case) -> list[Check]:
    error = case.obstacles.get("run")
    return [] if error is None else [fault(NAME, error)]


def fault(name: str, error: SpectraError) -> Check:
    """Return an error as a fault, with its hint as the action."""
    return Check(name, "fault", fact("readable", error.what, 0.0, 1.0), error.hint or "", where=error.where or "")


def _orphans(case: Case) -> list[Check]:
    """Find adapter tensors without their configuration: scale and method are then unknown."""
    places = [case.path, *_children(case.path), *_children(RunLayout(case.path).snapshots)]
    return [
        Check(
            NAME,
            "fault",
            fact("adapter_config", f"{ADAPTER_WEIGHTS} without {ADAPTER_CONFIG}: rank, scale and method are lost"),
            f"restore {ADAPTER_CONFIG}; peft's save_pretrained writes both",
            where=str(place),
        )
        for place in places
        if (place / ADAPTER_WEIGHTS).exists() and not (place / ADAPTER_CONFIG).exists()
    ]


def _children(path: Path) -> list[Path]:
    return sorted(child for child in path.iterdir() if child.is_dir()) if path.is_dir() else []


def _ignored(case: Case) -> list[Check]:
    """Find snapshots that the reader skips."""
    if case.run is None:
        return []
    last = max(case.run.ignored, default="")
    found = []
    for name, why in case.run.ignored.items():
        what, _, hint = why.partition("; ")
        newest = name == last and what == NO_WEIGHTS
        half = "contains nothing readable yet: it may still be being written" if newest else what
        found.append(Check(NAME, "note" if newest else "fault", fact("readable", half, 0.0, 1.0), hint, where=name))
    return found


def _torn(case: Case) -> list[Check]:
    """Find truncated weight files; the newest may still be being written."""
    if case.run is None:
        return []
    found = []
    for snapshot in case.run.snapshots:
        try:
            case.opened.require_whole(snapshot)
        except CorruptFileError as error:
            newest = len(case.run.snapshots) > 1 and snapshot is case.run.snapshots[-1]
            status = fault(NAME, error)
            if newest:
                says = f"the newest snapshot is half-written: {error.what}"
                status = Check(
                    NAME, "note", fact("readable", says, 0.0, 1.0), "wait, or save it again", None, status.where
                )
            found.append(status)
    return found


def _pickled(case: Case) -> list[Check]:
    snapshot = case.snapshot
    if snapshot is None or snapshot.kind == "full" or (snapshot.path / ADAPTER_WEIGHTS).exists():
        return []
    says = f"the adapter is pickled ({ADAPTER_PICKLE}) and was read as tensors only"
    action = "save it as safetensors: a pickle can run code where it is loaded otherwise"
    return [Check(NAME, "note", fact("pickled", says), action, where=str(snapshot.path))]
