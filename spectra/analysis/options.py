"""How to analyze a run. Imports nothing heavy, so that the command line can list the choices without torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Depth = Literal["auto", "all", "last", "none"]
EngineName = Literal["local", "ray"]


@dataclass(frozen=True)
class Options:
    """How to analyze.

    Attributes
    ----------
    base
        Base model to use instead of the one that the run names.
    initial
        Step-0 adapter or residual base of a method whose initialization changes the base, if the run does not
        contain it.
    out
        Output directory; None is ``RUN/spectra``.
    jobs
        Number of worker processes; None chooses from the workload.
    device
        Torch device to compute on.
    engine
        ``local`` or ``ray``.
    cache
        Directory of decomposed bases; None is the user's cache directory.
    deep
        Which snapshots get the expensive tables (drift, coordinates, nulls): ``auto``, ``all``, ``last`` or ``none``.
    """

    base: str | None = None
    initial: Path | None = None
    out: Path | None = None
    jobs: int | None = None
    device: str = "cpu"
    engine: EngineName = "local"
    cache: Path | None = None
    deep: Depth = "auto"
