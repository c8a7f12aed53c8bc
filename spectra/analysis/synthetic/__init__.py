"""Synthetic runs with a known fault (or none), as real run directories, to measure how often the verdict is right."""

from spectra.analysis.synthetic.plant import PlantedRun, plant
from spectra.analysis.synthetic.truths import EXPECTED, TRUTHS, Truth

__all__ = ["EXPECTED", "TRUTHS", "PlantedRun", "Truth", "plant"]
