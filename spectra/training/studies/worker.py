"""Train one run of a study: ``worker RUN RECIPE.yaml [--overwrite]``, alone or under a launcher."""

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from spectra.config import load
from spectra.errors import SpectraError
from spectra.training.loop.run import train
from spectra.training.recipe.recipe import Recipe
from spectra.training.studies.environment import STUDY

FAULT = "spectra: "  # the study reads the error after this prefix; a launcher prints more lines after it
OVERWRITE = "--overwrite"
_LOOKING_SECONDS = 1.0


def leave_with_parent() -> None:
    """End this process soon after its parent or the study has ended."""
    parent, study = os.getppid(), int(os.environ.get(STUDY, os.getppid()))

    def watch() -> None:
        # Under a launcher the parent is the launcher, which does not notice that the study has ended.
        while os.getppid() == parent and _is_there(study):
            time.sleep(_LOOKING_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def main(arguments: Sequence[str]) -> int:
    """Train the recipe (second argument) into a run directory (first argument); return the exit code."""
    leave_with_parent()
    out, recipe, *rest = arguments
    try:
        train(load(Recipe, Path(recipe)), Path(out), overwrite=OVERWRITE in rest)
    except SpectraError as error:
        print(f"{FAULT}{error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
