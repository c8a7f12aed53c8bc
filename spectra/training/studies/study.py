"""Study: a grid of runs that share a recipe, each trained in a separate process."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from spectra.config import NAME_PATTERN, Document, Section, build, dump, nearest
from spectra.errors import RecipeError, SpectraError, StudyError, UsageError
from spectra.runs.layout import RunLayout
from spectra.runs.manifest import Manifest
from spectra.training.data.dataset import pinned
from spectra.training.loop.progress import Reporter
from spectra.training.loop.run import RunAction, decide
from spectra.training.recipe.recipe import Recipe
from spectra.training.studies.environment import (
    LaunchRecipe,
    check_launch,
    visible_devices,
    worker_command,
    worker_environment,
)
from spectra.training.studies.worker import FAULT, OVERWRITE

RunName = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]


class StudyRecipe(Section):
    """Contents of a study file.

    Attributes
    ----------
    name
        Name of the study, used in the default output directory.
    common
        Recipe keys shared by all runs.
    runs
        Keys that differ, by run.
    workers
        Concurrent runs, one core each; the GPUs are divided among them.
    launch
        Launcher for runs with several processes; null starts one process per run.
    """

    name: RunName
    common: dict[str, Any] = Field(default_factory=dict)
    runs: dict[RunName, dict[str, Any] | None] = Field(min_length=1)
    workers: int = Field(default=2, ge=1)
    launch: LaunchRecipe | None = None


@dataclass(frozen=True)
class Study:
    """A study with the complete recipe of each run.

    Attributes
    ----------
    name, workers, launch
        As in :class:`StudyRecipe`.
    recipes
        The complete recipe of each run, by name.
    """

    name: str
    workers: int
    recipes: Mapping[str, Recipe]
    launch: LaunchRecipe | None = None


@dataclass(frozen=True)
class StudyResult:
    """Result of training a study.

    Attributes
    ----------
    finished
        Directories of the finished runs that can be compared, in the study's order.
    faults
        Reason of failure, by run.
    error
        The same as an error, to raise after the finished runs are compared; None if no run failed.
    """

    finished: list[Path]
    faults: Mapping[str, str]
    error: StudyError | None


def load_study(path: Path) -> Study:
    """Read a study file and complete the recipe of each run.

    Raises
    ------
    RecipeError
        For any fault of the file or of one run's recipe, with its line.
    """
    document = Document.read(path)
    if "runs" not in document.value and document.value.keys() & (Recipe.model_fields.keys() - {"name"}):
        raise RecipeError(
            "is the recipe of a single run", where=path, hint="use `spectra train`, or nest it under common"
        )
    study = build(StudyRecipe, document)
    recipes = {}
    for name in study.runs:
        run = Document({"name": name}).merged(document.at("common")).merged(document.at("runs", name))
        recipes[name] = build(Recipe, Document(run.value, run.places, f"{path}: runs.{name}"))
    return Study(study.name, study.workers, recipes, study.launch)


def train_study(
    study: Study, out: Path, reporter: Reporter, workers: int | None = None, overwrite: Collection[str] = ()
) -> StudyResult:
    """Train every run that is not finished; a run that fails does not stop the others.

    Parameters
    ----------
    study
        The runs.
    out
        Directory of the study; each run is a subdirectory, with its output in ``train.log``.
    reporter
        Receives the output lines of each run, prefixed with its name.
    workers
        Concurrent runs; None takes the number in the study file.
    overwrite
        Names of runs to delete and start over.

    Raises
    ------
    UsageError
        If ``overwrite`` names a run that the study does not have.
    RecipeError
        If the launcher's file is missing.
    """
    _check_names(study, overwrite)
    check_launch(study.launch)
    slots = _WorkerSlots(min(workers or study.workers, len(study.recipes)))
    runs = [
        _Run(name, recipe, out / name, reporter, study.launch, name in overwrite)
        for name, recipe in study.recipes.items()
    ]
    with ThreadPoolExecutor(slots.count) as pool:
        try:
            faults = dict(zip(study.recipes, pool.map(lambda run: run.train(slots), runs), strict=True))
        except BaseException as error:
            for run in runs:
                run.stop()
            if isinstance(error, KeyboardInterrupt):
                reporter.say("stopped: the same command resumes from the last checkpoints")
            raise
    return _trained(runs, {name: fault for name, fault in faults.items() if fault is not None}, out)


def _check_names(study: Study, names: Collection[str]) -> None:
    known = list(study.recipes)
    for name in names:
        if name not in known:
            near = nearest(name, known)
            hint = f"did you mean {near!r}?" if near else f"its runs are {', '.join(known)}"
            raise UsageError(f"--overwrite {name}: the study has no such run", hint=hint)


def _trained(runs: list["_Run"], faults: Mapping[str, str], out: Path) -> StudyResult:
    finished = [run.out for run in runs if run.name not in faults]
    if faults:
        reasons = "; ".join(f"{name} ({fault})" for name, fault in faults.items())
        hint = "fix the cause and run the same command again: finished runs are kept"
        error = StudyError(f"{len(faults)} of {len(runs)} runs failed: {reasons}", where=out, hint=hint)
        return StudyResult(finished if _other_base(finished) is None else [], faults, error)
    fault = _other_base(finished)
    if fault is not None:
        return StudyResult(
            [], {}, StudyError(fault, where=out, hint="remove the older run and run the same command again")
        )
    return StudyResult(finished, {}, None)


def _other_base(runs: list[Path]) -> str | None:
    """Return which runs share a base name but not base weights, and so cannot be compared; None if none do."""
    first: dict[tuple[str, str | None], tuple[str, Mapping[str, str]]] = {}
    for run in runs:
        base = Manifest.read(RunLayout(run).manifest).base
        other, digests = first.setdefault((base.name, base.revision), (run.name, base.fingerprints))
        if digests != base.fingerprints:
            return f"runs {other} and {run.name} started from different weights of the base model {base.name!r}"
    return None


class _WorkerSlots:
    """Slots of concurrent workers, each with its share of the GPUs."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._devices = visible_devices(os.environ)
        self._free: SimpleQueue[int] = SimpleQueue()
        for slot in range(count):
            self._free.put(slot)

    @contextlib.contextmanager
    def one(self) -> Iterator[dict[str, str]]:
        """Yield the environment of a free slot; there are as many slots as threads."""
        slot = self._free.get()
        try:
            yield worker_environment(os.environ, self._devices, slot, self.count)
        finally:
            self._free.put(slot)


class _Run:
    """One run of a study and the process that trains it."""

    def __init__(
        self, name: str, recipe: Recipe, out: Path, reporter: Reporter, launch: LaunchRecipe | None, overwrite: bool
    ) -> None:
        self.name, self.out = name, out
        self._recipe, self._reporter = recipe, reporter
        self._launch, self._overwrite = launch, overwrite
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False

    def train(self, slots: _WorkerSlots) -> str | None:
        """Train unless finished; return the reason of failure, or None."""
        if self._stopped:
            return "stopped before it started"
        layout = RunLayout(self.out)
        try:
            again = f"--overwrite {self.name}"
            if decide(pinned(self._recipe), layout, overwrite=self._overwrite, again=again) is RunAction.SKIP:
                self._say("already finished")
                return None
        except SpectraError as error:
            self._say(f"failed: {error}")
            return str(error)
        with slots.one() as environment, TemporaryDirectory(prefix="spectra-study-") as scratch:
            recipe = Path(scratch) / "recipe.yaml"
            recipe.write_text(dump(self._recipe), encoding="utf-8")
            arguments = [str(self.out), str(recipe), *([OVERWRITE] if self._overwrite else [])]
            return self._work(worker_command(arguments, self._launch, slots.count), environment, layout.log)

    def stop(self) -> None:
        """Stop the process and those of its launcher, now or as soon as they start."""
        self._stopped = True
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)

    def _work(self, command: list[str], environment: dict[str, str], log: Path) -> str | None:
        log.parent.mkdir(parents=True, exist_ok=True)
        last, fault = "no output", None
        with log.open("a", encoding="utf-8") as file, self._start(command, environment) as process:
            for line in process.stdout or ():
                file.write(line)
                file.flush()
                last = line.strip() or last
                # After the error, a launcher prints a long report that one of its processes failed.
                if fault is None and not self._stopped:
                    self._say(line.rstrip())
                if line.startswith(FAULT):
                    fault = fault or line.removeprefix(FAULT).strip()
        if process.returncode == 0:
            return None
        if not self._stopped:
            self._say(f"failed with exit code {process.returncode}, see {log}")
        return fault or last

    def _start(self, command: list[str], environment: dict[str, str]) -> "subprocess.Popen[str]":
        # In a separate process group, so that Ctrl-C on the study does not make every worker print a traceback.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            process_group=0,
        )
        if self._stopped:
            self.stop()
        return self._process

    def _say(self, line: str) -> None:
        self._reporter.say(f"[{self.name}] {line}")
