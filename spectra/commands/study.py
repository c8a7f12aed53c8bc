"""``spectra study``: a grid of runs."""

import os
import time
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from spectra.errors import UsageError

if TYPE_CHECKING:
    from spectra.training.studies.study import Trained

# A launcher stops all processes as soon as one has ended: the one that says why must be it.
_SPEAKING_SECONDS = 2.0


def study(
    path: Path,
    *,
    out: Path | None = None,
    workers: int | None = None,
    overwrite: Collection[str] = (),
    quiet: bool = False,
) -> "Trained":
    """Train every run of a study; called again, it trains what is not finished.

    Parameters
    ----------
    path
        YAML file.
    out
        Directory of the study; ``runs/<study name>`` if None.
    workers
        Runs at once; the study's own number if None.
    overwrite
        Names of runs to start again.
    quiet
        Report nothing.

    Returns
    -------
    Trained
        The directories of finished runs, and what went wrong with the others.

    Raises
    ------
    RecipeError
        For a fault in the file.
    UsageError
        If a launcher started this, or the study has no run of a name to overwrite.
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
    hint = "call it once, without a launcher, and say launch: {config: FILE} in the study"
    raise UsageError(
        f"a launcher started {count} processes of spectra study, which launches its runs itself", hint=hint
    )
