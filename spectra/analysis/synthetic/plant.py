"""Write a synthetic run with a known fault: draw its setting, build its update and log, write it to disk."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from spectra.analysis.synthetic.bases import build_base
from spectra.analysis.synthetic.logs import build_log
from spectra.analysis.synthetic.offsets import build_offset
from spectra.analysis.synthetic.setting import Setting, draw_setting
from spectra.analysis.synthetic.truths import EXPECTED, Truth
from spectra.analysis.synthetic.updates import build_update
from spectra.analysis.synthetic.write import write_base, write_run
from spectra.analysis.verdict.findings import Verdict


@dataclass(frozen=True)
class PlantedRun:
    """A synthetic run on disk with a known fault, or none.

    Attributes
    ----------
    path, base
        The run directory and the base model.
    truth
        The fault, or the kind of healthy run.
    expected
        The right verdict.
    onset
        Step at which the fault began; None if there is none, or if it was present from the first step.
    resolution
        Steps between the two snapshots, or log lines, around the onset; None without an onset.
    leader
        The signal that breaks first, in runs whose reward collapses: the entropy or the reward itself.
    setting
        Shapes, formats, schedules and noise of the run.
    """

    path: Path
    base: Path
    truth: Truth
    expected: Verdict
    onset: int | None
    resolution: int | None
    leader: str | None
    setting: Setting


def plant(directory: Path, truth: Truth, seed: int, *, near: bool = False) -> PlantedRun:
    """Write a synthetic run into ``directory/run``, and its base model into ``directory/base``.

    Parameters
    ----------
    directory
        Where to write; the two directories must not exist.
    truth
        The fault, or the kind of healthy run.
    seed
        Determines everything that ``truth`` leaves open.
    near
        Choose values near the thresholds, where the right verdict is a matter of convention.
    """
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    setting = draw_setting(truth, rng, near=near)
    base = build_base(setting, generator)
    if truth == "wrong_base":
        update = build_offset(setting, base, rng, generator)
    else:
        update = build_update(truth, setting, base, rng, generator)
    log = build_log(truth, setting, update, rng)
    base_directory = write_base(directory / "base", base, setting)
    path = write_run(directory / "run", base_directory, base, setting, update, log)
    if log is not None and log.onset is not None:
        onset, resolution = log.onset, setting.every
    elif update.onset is not None:
        onset, resolution = update.onset, setting.resolution(update.onset)
    else:
        onset, resolution = None, None
    leader = None if log is None else log.leader
    return PlantedRun(path, base_directory, truth, EXPECTED[truth], onset, resolution, leader, setting)
