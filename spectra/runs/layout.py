"""File names of the run directory, defined in this file only.

::

    run/
      manifest.json  recipe.yaml  metrics.jsonl
      snapshots/step_000064/      an adapter or a full model, loadable by its own library
      checkpoints/                the trainer's resumable state
      evals/<benchmark>/step_000064.jsonl
      spectra/                    the analysis: tables/, verdict.json, figures/, report.html
"""

import re
from dataclasses import dataclass
from pathlib import Path

SCHEMA_VERSION = 1

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_PICKLE = "adapter_model.bin"
MODEL_WEIGHTS = "model.safetensors"
MODEL_INDEX = "model.safetensors.index.json"
MODEL_UPDATE = "model_update.safetensors"
MODEL_CONFIG = "config.json"
TRAINER_STATE = "trainer_state.json"

_STEP = re.compile(r"step_(\d+)")
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def step_name(step: int) -> str:
    """Return the directory name of a snapshot, zero-padded so that names sort as numbers.

    >>> step_name(64)
    'step_000064'
    """
    return f"step_{step:06d}"


def parse_step(name: str) -> int | None:
    """Return the step in a snapshot's directory name, or None.

    >>> parse_step("step_000064"), parse_step("step_000064.tmp")
    (64, None)
    """
    match = _STEP.fullmatch(name)
    return None if match is None else int(match[1])


def parse_checkpoint(name: str) -> int | None:
    """Return the step of an HF Trainer checkpoint directory, or None.

    >>> parse_checkpoint("checkpoint-10")
    10
    """
    match = _CHECKPOINT.fullmatch(name)
    return None if match is None else int(match[1])


@dataclass(frozen=True)
class RunLayout:
    """Paths inside a spectra run directory. Nothing here writes."""

    root: Path

    @property
    def manifest(self) -> Path:
        """Facts about the run: versions, base identity, method, seeds, trainable parameters."""
        return self.root / "manifest.json"

    @property
    def recipe(self) -> Path:
        """The resolved, complete recipe."""
        return self.root / "recipe.yaml"

    @property
    def metrics(self) -> Path:
        """One JSON object per logged step, appended."""
        return self.root / "metrics.jsonl"

    @property
    def snapshots(self) -> Path:
        """Directory of ΔW snapshots."""
        return self.root / "snapshots"

    def snapshot(self, step: int) -> Path:
        """Return the directory of one snapshot."""
        return self.snapshots / step_name(step)

    def snapshot_steps(self) -> list[int]:
        """Return the steps of the existing snapshots, ascending."""
        found = self.snapshots.iterdir() if self.snapshots.exists() else ()
        return sorted(step for path in found if (step := parse_step(path.name)) is not None)

    @property
    def checkpoints(self) -> Path:
        """Directory of the trainer's resumable state."""
        return self.root / "checkpoints"

    @property
    def evaluations(self) -> Path:
        """Directory of evaluations, with one subdirectory per benchmark."""
        return self.root / "evals"

    def evaluation(self, benchmark: str, step: int) -> Path:
        """Return the file of one evaluation: one JSON object per generation."""
        return self.evaluations / benchmark / f"{step_name(step)}.jsonl"

    @property
    def log(self) -> Path:
        """Output of a run that a study launched."""
        return self.root / "train.log"

    @property
    def lock(self) -> Path:
        """Lock file of the training process."""
        return self.root / ".lock"

    @property
    def analysis(self) -> "AnalysisLayout":
        """Paths of the analysis of this run."""
        return AnalysisLayout(self.root / "spectra")


@dataclass(frozen=True)
class AnalysisLayout:
    """Paths inside an analysis directory (``run/spectra`` unless ``--out`` says otherwise)."""

    root: Path

    @property
    def tables(self) -> Path:
        """Directory of the parquet tables."""
        return self.root / "tables"

    def table(self, name: str) -> Path:
        """Return the file of one table."""
        return self.tables / f"{name}.parquet"

    @property
    def parts(self) -> Path:
        """Partial results of an analysis that is running or was killed."""
        return self.root / "parts"

    @property
    def state(self) -> Path:
        """Digests of the content from which each step's rows were computed."""
        return self.root / "state.json"

    @property
    def lock(self) -> Path:
        """Lock file of the analyzing process."""
        return self.root / ".lock"

    @property
    def digests(self) -> Path:
        """Digests of the run's weight files, valid while size and modification time are unchanged."""
        return self.root / "digests.json"

    @property
    def verdict(self) -> Path:
        """Verdict with evidence and coverage."""
        return self.root / "verdict.json"

    @property
    def figures(self) -> Path:
        """Directory of the figures, as PDF and SVG."""
        return self.root / "figures"

    @property
    def drawn(self) -> Path:
        """What the figures and pages were drawn from, and their names."""
        return self.root / "drawn.json"

    @property
    def report_html(self) -> Path:
        """The self-contained report page."""
        return self.root / "report.html"

    @property
    def report_markdown(self) -> Path:
        """The report as text."""
        return self.root / "report.md"
