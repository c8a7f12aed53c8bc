"""``spectra train``: train one run from a recipe."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def train(
    recipe: Path,
    *,
    overrides: Sequence[str] = (),
    out: Path | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> Path:
    """Train one run; calling it again resumes, or skips a finished run.

    Parameters
    ----------
    recipe
        YAML file.
    overrides
        ``section.key=value`` each.
    out
        Run directory; ``runs/<recipe name>`` if None.
    overwrite
        Delete an existing run in ``out`` and start over.
    quiet
        Print nothing.

    Returns
    -------
    Path
        The run directory.

    Raises
    ------
    SpectraError
        See :func:`spectra.training.loop.run.train`; an invalid recipe raises :class:`spectra.errors.RecipeError`.
    """
    from spectra.config import Document, build
    from spectra.errors import RecipeError
    from spectra.training.loop.run import train as train_run
    from spectra.training.recipe.recipe import Recipe

    document = Document.read(recipe)
    if "runs" in document.value:
        raise RecipeError("this is a study, not a recipe", where=recipe, hint="use `spectra study`")
    loaded = build(Recipe, document.overridden(overrides))
    return train_run(loaded, out or Path("runs") / loaded.name, overwrite=overwrite, quiet=quiet)


def reports() -> bool:
    """Return whether this process prints what :func:`train` came to: of those that a launcher started, the main one."""
    from spectra.training.distributed.processes import join

    return join().is_main


def outcome(run: Path) -> dict[str, Any]:
    """Return the result of a finished run for --json: directory, method, algorithm, seed, steps and last metrics.

    Raises
    ------
    SpectraError
        If a file of the run cannot be read.
    """
    from spectra.runs.layout import RunLayout
    from spectra.runs.manifest import Manifest
    from spectra.runs.series import read_metrics

    layout = RunLayout(run)
    manifest, metrics = Manifest.read(layout.manifest), read_metrics(layout.metrics)
    last: dict[str, Any] = {} if metrics.empty else json.loads(metrics.iloc[-1].to_json())
    steps = layout.snapshot_steps()
    facts = {"method": manifest.method, "algorithm": manifest.algorithm, "seed": manifest.seed, "steps": steps[-1]}
    return {"run": str(run), **facts, "snapshots": steps, "last": last}
