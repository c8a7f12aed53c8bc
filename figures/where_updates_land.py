"""The picture of the README: where five runs of the demo wrote, against chance. Run after `make demo`.

    python figures/where_updates_land.py [runs/demo]

Writes where_updates_land.pdf and .png beside this file, from the tables alone.
"""

import sys
from pathlib import Path

from spectra.figures import overlay
from spectra.figures.style.style import figure_of, save, styled
from spectra.runs.layout import RunLayout
from spectra.runs.tables import Tables

RUNS = ("lora", "dora", "full", "pissa-tenth", "pissa")


def main(study: Path) -> None:
    runs = {name: Tables.read(RunLayout(study / name).analysis) for name in RUNS}
    here = Path(__file__).parent
    with styled():
        figure = figure_of(overlay(runs, side="left"))
        for suffix in ("pdf", "png"):
            print(save(figure, here / f"where_updates_land.{suffix}"))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo"))
