"""The figures wing: tables in, PDF and HTML out. Needs no torch.

Every figure takes tables and ``ax``, draws what ``spectra.figures.data.summaries`` prepared, and returns the axes;
global matplotlib settings stay as they are.
"""

from spectra.figures.plots.accuracy import accuracy_against_size
from spectra.figures.plots.heatmaps import heatmap
from spectra.figures.plots.maps import spectral_map
from spectra.figures.plots.masks import coordinates
from spectra.figures.plots.motion import drift
from spectra.figures.plots.nulls import forest, null_metrics
from spectra.figures.plots.pairs import pair_cosines
from spectra.figures.plots.profiles import cumulative, overlay, profile
from spectra.figures.plots.relations import convergence
from spectra.figures.plots.timelines import timeline, timeline_signals
from spectra.figures.plots.trajectories import learning_curves, trajectory
from spectra.figures.report.comparison import write_comparison_report
from spectra.figures.report.gallery import draw_all, draw_comparison
from spectra.figures.report.report import RunReport, write_report

__all__ = [
    "RunReport",
    "accuracy_against_size",
    "convergence",
    "coordinates",
    "cumulative",
    "draw_all",
    "draw_comparison",
    "drift",
    "forest",
    "heatmap",
    "learning_curves",
    "null_metrics",
    "overlay",
    "pair_cosines",
    "profile",
    "spectral_map",
    "timeline",
    "timeline_signals",
    "trajectory",
    "write_comparison_report",
    "write_report",
]
