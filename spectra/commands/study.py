"""``spectra study``: train a grid of runs."""

import os
import time
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from spectra.errors import UsageError

if TYPE_CHECKING:
    from spectra.training.studies.study import StudyResult

# A launcher kills all processes when the first one exits: rank 0, which prints the error, must be that one.
_SPEAKING_SECONDS = 2.0


def study(
    path: Path,
    *,
    out: Path | None = None,
    workers: int | None = None,
    overwrite: Collection[str] = (),
    quiet: bool = False,
) -> "StudyResult":
    """Train every run of a study; calling it again trains only unfinished runs.

    Parameters
    ----------
    path
        YAML file.
    out
        Study directory; ``runs/<study name>`` if None.
    workers
        Number of runs at the same time; None uses the number in the study.
    overwrite
        Names of runs to delete and start over.
    quiet
        Print nothing.

    Returns
    -------
    StudyResult
        The directories of finished runs, and the errors of the others.

    Raises
    ------
    RecipeError
        If the file is invalid.
    UsageError
        If a launcher started this process, or ``overwrite`` names a run that the study does not have.
    """
    _refuse_launcher()
    from spectra.training.loop.progress import log_reporter
    from spectra.training.studies.study import load_study, train_study

    loaded = load_study(path)
    return train_study(loaded, out or Path("runs") / loaded.name, log_reporter(quiet), workers, overwrite)


def _refuse_launcher() -> None:
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return
    if os.environ.get("RANK", "0") != "0":
        time.sleep(_SPEAKING_SECONDS)
        raise SystemExit(UsageError.exit_code)
    hint = "run it once without a launcher, and set launch: {config: FILE} in the study"
    raise UsageError(
        f"spectra study launches its runs itself, but a launcher started {count} processes of it", hint=hint
    )
