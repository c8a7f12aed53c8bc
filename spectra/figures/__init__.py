"""The figures wing: tables in, PDF and HTML out. Needs no torch.

Every figure takes tables and ``ax``, draws what ``spectra.figures.summaries`` prepared, and returns the axes; global
matplotlib settings stay as they are.
"""

from spectra.figures.accuracy import accuracy_against_size
from spectra.figures.comparison import write_comparison_report
from spectra.figures.gallery import draw_all, draw_comparison
from spectra.figures.heatmaps import heatmap
from spectra.figures.maps import spectral_map
from spectra.figures.masks import coordinates
from spectra.figures.motion import drift
from spectra.figures.nulls import forest, null_metrics
from spectra.figures.pairs import pair_cosines
from spectra.figures.profiles import cumulative, overlay, profile
from spectra.figures.relations import convergence
from spectra.figures.report import RunReport, write_report
from spectra.figures.timelines import timeline, timeline_signals
from spectra.figures.trajectories import learning_curves, trajectory

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
