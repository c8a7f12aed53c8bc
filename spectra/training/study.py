"""A study: a grid of runs that share a recipe, each trained in a process of its own."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from spectra.config import Document, Section, build, dump
from spectra.errors import SpectraError, StudyError
from spectra.runs.layout import RunLayout
from spectra.runs.manifest import Manifest
from spectra.training.data import pinned
from spectra.training.progress import Reporter
from spectra.training.recipe import NAME_PATTERN, Recipe
from spectra.training.run import Plan, decide

RunName = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]


class StudyRecipe(Section):
    """What a study file holds.

    Attributes
    ----------
    name
        Name of the study; the default output directory has it.
    common
        Recipe that every run starts from.
    runs
        For each run, the keys in which it differs.
    workers
        Runs that train at once, one core each.
    """

    name: RunName
    common: dict[str, Any] = Field(default_factory=dict)
    runs: dict[RunName, dict[str, Any] | None] = Field(min_length=1)
    workers: int = Field(default=2, ge=1)


@dataclass(frozen=True)
class Study:
    """A study with its runs spelt out.

    Attributes
    ----------
    name, workers
        As in :class:`StudyRecipe`.
    recipes
        The complete recipe of each run, by name.
    """

    name: str
    workers: int
    recipes: Mapping[str, Recipe]


def load_study(path: Path) -> Study:
    """Read a study file and spell out its runs.

    Raises
    ------
    RecipeError
        For any fault of the file or of one run's recipe, with its line.
    """
    document = Document.read(path)
    study = build(StudyRecipe, document)
    recipes = {}
    for name in study.runs:
        run = Document({"name": name}).merged(document.at("common")).merged(document.at("runs", name))
        recipes[name] = build(Recipe, Document(run.value, run.places, f"{path}: runs.{name}"))
    return Study(study.name, study.workers, recipes)


def train_study(study: Study, out: Path, reporter: Reporter, workers: int | None = None) -> list[Path]:
    """Train every run that is not finished; a run that fails does not stop the others.

    Parameters
    ----------
    study
        The runs.
    out
        Directory of the study; each run is a directory in it, with what it said in ``train.log``.
    reporter
        Gets each run's lines, headed by the run's name.
    workers
        Runs at once; the study's own number if None.

    Returns
    -------
    list of Path
        The run directories, in the study's order.

    Raises
    ------
    StudyError
        At the end, if any run failed: names each with the last line of its log.
    """
    runs = [_Run(name, recipe, out / name, reporter) for name, recipe in study.recipes.items()]
    with ThreadPoolExecutor(workers or study.workers) as pool:
        try:
            faults = list(pool.map(_Run.train, runs))
        except BaseException:
            for run in runs:
                run.stop()
            raise
    failed = [f"{run.name} ({fault})" for run, fault in zip(runs, faults, strict=True) if fault is not None]
    if failed:
        cure = "mend the cause and call again: finished runs are kept"
        raise StudyError(f"{len(failed)} of {len(runs)} runs failed: {'; '.join(failed)}", where=out, cure=cure)
    _check_bases(study, out)
    return [run.out for run in runs]


def _check_bases(study: Study, out: Path) -> None:
    """Refuse a comparison of runs whose recipes name one base and whose weights were another's."""
    first: dict[tuple[str, str | None], tuple[str, Mapping[str, str]]] = {}
    for name in study.recipes:
        base = Manifest.read(RunLayout(out / name).manifest).base
        other, digests = first.setdefault((base.name, base.revision), (name, base.fingerprints))
        if digests != base.fingerprints:
            fault = f"runs {other} and {name} began from different weights of the base {base.name!r}"
            raise StudyError(fault, where=out, cure="remove the older run and call again")


class _Run:
    """One run of a study and the process that trains it."""

    def __init__(self, name: str, recipe: Recipe, out: Path, reporter: Reporter) -> None:
        self.name, self.out = name, out
        self._recipe, self._reporter = recipe, reporter
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False

    def train(self) -> str | None:
        """Train unless finished; return what went wrong, or None."""
        if self._stopped:
            return "stopped before it began"
        layout = RunLayout(self.out)
        try:
            if decide(pinned(self._recipe), layout) is Plan.LEAVE:
                self._say("already finished")
                return None
        except SpectraError as error:
            self._say(f"failed: {error}")
            return str(error)
        return self._work(layout.log)

    def stop(self) -> None:
        """Stop the process, now or before it begins."""
        self._stopped = True
        if self._process is not None:
            self._process.terminate()

    def _work(self, log: Path) -> str | None:
        log.parent.mkdir(parents=True, exist_ok=True)
        last = "it said nothing"
        with log.open("a", encoding="utf-8") as file, self._start() as process:
            for line in process.stdout or ():
                file.write(line)
                file.flush()
                last = line.strip() or last
                self._say(line.rstrip())
        if process.returncode == 0:
            return None
        self._say(f"failed with exit code {process.returncode}, see {log}")
        return last

    def _start(self) -> "subprocess.Popen[str]":
        # More than one BLAS thread a process makes runs that share a machine slower, not faster.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "spectra.training.worker", str(self.out)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        # A worker that dies at once leaves a broken pipe; its exit code tells the story.
        with contextlib.suppress(BrokenPipeError), self._process.stdin or contextlib.nullcontext() as pipe:
            if pipe is not None:
                pipe.write(dump(self._recipe))
        return self._process

    def _say(self, line: str) -> None:
        self._reporter.say(f"[{self.name}] {line}")
