"""Plant a run: draw its looks, build what its truth asks for, write it to disk."""

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
    """A run on disk whose truth is known.

    Attributes
    ----------
    path, base
        The run directory and the base model.
    truth
        What was planted.
    expected
        The verdict that is right.
    onset
        Step at which the fault began; None where there is none, or where it was there from the start.
    resolution
        Steps between the two snapshots, or lines of the log, around the onset; None without an onset.
    leader
        The signal that breaks first, in runs whose reward collapses: the entropy or the reward itself.
    setting
        What the run looks like.
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
    """Write a run of a known truth into ``directory/run``, and its base model into ``directory/base``.

    Parameters
    ----------
    directory
        Where to write; the two directories must not exist.
    truth
        What to plant.
    seed
        Decides everything that the truth leaves open.
    near
        Plant near the thresholds, where the right verdict is a matter of convention.
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
