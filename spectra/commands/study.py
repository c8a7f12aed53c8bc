"""``spectra study``: a grid of runs."""

from pathlib import Path


def study(path: Path, *, out: Path | None = None, workers: int | None = None, quiet: bool = False) -> list[Path]:
    """Train every run of a study; called again, it trains what is not finished.

    Parameters
    ----------
    path
        YAML file.
    out
        Directory of the study; ``runs/<study name>`` if None.
    workers
        Runs at once; the study's own number if None.
    quiet
        Report nothing.

    Returns
    -------
    list of Path
        The run directories.

    Raises
    ------
    RecipeError
        For a fault in the file.
    StudyError
        At the end, if any run failed.
    """
    from spectra.training.progress import log_reporter
    from spectra.training.study import load_study, train_study

    loaded = load_study(path)
    return train_study(loaded, out or Path("runs") / loaded.name, log_reporter(quiet), workers)
