"""The process that trains one run of a study: recipe on standard input, run directory as argument."""

import sys
from pathlib import Path

from spectra.config import Document, build
from spectra.errors import SpectraError
from spectra.training.recipe import Recipe
from spectra.training.run import train


def main(out: Path) -> int:
    """Train the recipe on standard input into ``out``; return the exit code."""
    try:
        train(build(Recipe, Document.parse(sys.stdin.read(), "standard input")), out)
    except SpectraError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
