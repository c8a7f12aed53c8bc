"""The figures wing: tables in, PDF and HTML out. Needs no torch.

Every figure takes tables and ``ax``, draws what ``spectra.figures.summaries`` prepared, and returns the axes; global
matplotlib settings stay as they are.
"""

from spectra.figures.accuracy import accuracy_against_size
from spectra.figures.comparison import write_comparison_report
from spectra.figures.gallery import draw_all, draw_comparison
from spectra.figures.heatmaps import heatmap
from spectra.figures.profiles import cumulative, overlay, profile
from spectra.figures.report import RunReport, write_report
from spectra.figures.trajectories import learning_curves, trajectory

__all__ = [
    "RunReport",
    "accuracy_against_size",
    "cumulative",
    "draw_all",
    "draw_comparison",
    "heatmap",
    "learning_curves",
    "overlay",
    "profile",
    "trajectory",
    "write_comparison_report",
    "write_report",
]
