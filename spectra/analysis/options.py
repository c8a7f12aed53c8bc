"""How to analyze a run. Imports nothing heavy, so that the command line can name the choices without torch."""

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
        Step-0 adapter or residual base of a method that moves the base, where the run does not hold it.
    out
        Where results go; None is ``RUN/spectra``.
    jobs
        Processes; None chooses.
    device
        Torch device of the arithmetic.
    engine
        ``local`` or ``ray``.
    cache
        Directory of decomposed bases; None is the user's cache directory.
    deep
        Which snapshots get the costly tables (drift, coordinates, nulls): ``auto``, ``all``, ``last`` or ``none``.
    """

    base: str | None = None
    initial: Path | None = None
    out: Path | None = None
    jobs: int | None = None
    device: str = "cpu"
    engine: EngineName = "local"
    cache: Path | None = None
    deep: Depth = "auto"
