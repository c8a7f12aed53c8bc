"""``spectra train``: one run from a recipe."""

from collections.abc import Sequence
from pathlib import Path


def train(
    recipe: Path,
    *,
    overrides: Sequence[str] = (),
    out: Path | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> Path:
    """Train one run; called again, it resumes or leaves alone.

    Parameters
    ----------
    recipe
        YAML file.
    overrides
        ``section.key=value`` each.
    out
        Run directory; ``runs/<recipe name>`` if None.
    overwrite
        Start again where a run is.
    quiet
        Report nothing.

    Returns
    -------
    Path
        The run directory.

    Raises
    ------
    SpectraError
        See :func:`spectra.training.run.train`; the recipe's faults are :class:`spectra.errors.RecipeError`.
    """
    from spectra.config import load
    from spectra.training.recipe import Recipe
    from spectra.training.run import train as train_run

    loaded = load(Recipe, recipe, overrides)
    return train_run(loaded, out or Path("runs") / loaded.name, overwrite=overwrite, quiet=quiet)
