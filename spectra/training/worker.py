"""The process that trains one run of a study: recipe on standard input, run directory as argument."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

from spectra.config import Document, build
from spectra.errors import SpectraError
from spectra.training.recipe import Recipe
from spectra.training.run import train

_LOOKING_SECONDS = 1.0


def leave_with_parent() -> None:
    """End this process soon after the one that started it is gone: a study that was killed trains nothing more."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOKING_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def main(out: Path) -> int:
    """Train the recipe on standard input into ``out``; return the exit code."""
    leave_with_parent()
    try:
        train(build(Recipe, Document.parse(sys.stdin.read(), "standard input")), out)
    except SpectraError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
