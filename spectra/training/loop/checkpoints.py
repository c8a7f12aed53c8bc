"""Resumable trainer state: find the checkpoint from which a killed run resumes."""

import json
import shutil
import zipfile
from pathlib import Path

from spectra.runs.layout import TRAINER_STATE, RunLayout, parse_checkpoint


def newest_checkpoint(layout: RunLayout, processes: int = 1) -> tuple[Path, int] | None:
    """Return the newest complete checkpoint of ``processes`` processes, with its step; None if there is none.

    Incomplete checkpoints of a crash are removed, so that a later one of the same step is complete.
    """
    found = {parse_checkpoint(path.name): path for path in layout.checkpoints.glob("checkpoint-*")}
    steps = sorted((step for step in found if step is not None), reverse=True)
    for step in steps:
        if is_complete(found[step], step, processes):
            return found[step], step
        shutil.rmtree(found[step])
    return None


def is_complete(checkpoint: Path, step: int, processes: int = 1) -> bool:
    """Return whether the trainer finished writing this checkpoint.

    The main process writes the state file, which has the step, last; other processes may write random states later.
    """
    try:
        state = json.loads((checkpoint / TRAINER_STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    streams = {f"rng_state_{index}.pth" for index in range(processes)} if processes > 1 else set()
    archives = [*checkpoint.glob("*.pt"), *checkpoint.glob("*.pth")]
    return (
        isinstance(state, dict)
        and state.get("global_step") == step
        and streams <= {path.name for path in archives}
        and all(map(zipfile.is_zipfile, archives))
    )
