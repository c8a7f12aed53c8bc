"""A study: a grid of runs that share a recipe, each trained in a process of its own."""

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
from spectra.training.loop.run import Plan, decide
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
        Runs that train at once, one core each; GPUs are shared out among them.
    launch
        How each run is launched where several processes train it; null starts one process a run.
    """

    name: RunName
    common: dict[str, Any] = Field(default_factory=dict)
    runs: dict[RunName, dict[str, Any] | None] = Field(min_length=1)
    workers: int = Field(default=2, ge=1)
    launch: LaunchRecipe | None = None


@dataclass(frozen=True)
class Study:
    """A study with its runs spelt out.

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
class Trained:
    """What became of a study.

    Attributes
    ----------
    finished
        Directories of the runs that are finished and can be compared, in the study's order.
    faults
        What went wrong, by run.
    error
        The same as an error, to raise when what finished is compared; None where all is well.
    """

    finished: list[Path]
    faults: Mapping[str, str]
    error: StudyError | None


def load_study(path: Path) -> Study:
    """Read a study file and spell out its runs.

    Raises
    ------
    RecipeError
        For any fault of the file or of one run's recipe, with its line.
    """
    document = Document.read(path)
    if "runs" not in document.value and document.value.keys() & (Recipe.model_fields.keys() - {"name"}):
        raise RecipeError("is a recipe of one run", where=path, hint="use `spectra train`, or put it under common")
    study = build(StudyRecipe, document)
    recipes = {}
    for name in study.runs:
        run = Document({"name": name}).merged(document.at("common")).merged(document.at("runs", name))
        recipes[name] = build(Recipe, Document(run.value, run.places, f"{path}: runs.{name}"))
    return Study(study.name, study.workers, recipes, study.launch)


def train_study(
    study: Study, out: Path, reporter: Reporter, workers: int | None = None, overwrite: Collection[str] = ()
) -> Trained:
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
    overwrite
        Names of runs to start again, whatever is there.

    Raises
    ------
    UsageError
        If ``overwrite`` names a run that the study does not have.
    RecipeError
        If the launcher's file is not there.
    """
    _check_names(study, overwrite)
    check_launch(study.launch)
    places = _Places(min(workers or study.workers, len(study.recipes)))
    runs = [
        _Run(name, recipe, out / name, reporter, study.launch, name in overwrite)
        for name, recipe in study.recipes.items()
    ]
    with ThreadPoolExecutor(places.count) as pool:
        try:
            faults = dict(zip(study.recipes, pool.map(lambda run: run.train(places), runs), strict=True))
        except BaseException as error:
            for run in runs:
                run.stop()
            if isinstance(error, KeyboardInterrupt):
                reporter.say("stopped: the same command goes on from the last checkpoints")
            raise
    return _trained(runs, {name: fault for name, fault in faults.items() if fault is not None}, out)


def _check_names(study: Study, names: Collection[str]) -> None:
    known = list(study.recipes)
    for name in names:
        if name not in known:
            near = nearest(name, known)
            hint = f"did you mean {near!r}?" if near else f"it has {', '.join(known)}"
            raise UsageError(f"--overwrite {name}: the study has no such run", hint=hint)


def _trained(runs: list["_Run"], faults: Mapping[str, str], out: Path) -> Trained:
    finished = [run.out for run in runs if run.name not in faults]
    if faults:
        told = "; ".join(f"{name} ({fault})" for name, fault in faults.items())
        hint = "mend the cause and call again: finished runs are kept"
        error = StudyError(f"{len(faults)} of {len(runs)} runs failed: {told}", where=out, hint=hint)
        return Trained(finished if _other_base(finished) is None else [], faults, error)
    fault = _other_base(finished)
    if fault is not None:
        return Trained([], {}, StudyError(fault, where=out, hint="remove the older run and call again"))
    return Trained(finished, {}, None)


def _other_base(runs: list[Path]) -> str | None:
    """Say which runs name one base and began from different weights: they are no comparison."""
    first: dict[tuple[str, str | None], tuple[str, Mapping[str, str]]] = {}
    for run in runs:
        base = Manifest.read(RunLayout(run).manifest).base
        other, digests = first.setdefault((base.name, base.revision), (run.name, base.fingerprints))
        if digests != base.fingerprints:
            return f"runs {other} and {run.name} began from different weights of the base {base.name!r}"
    return None


class _Places:
    """The places of workers that train at once, each with its share of the GPUs."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._devices = visible_devices(os.environ)
        self._free: SimpleQueue[int] = SimpleQueue()
        for slot in range(count):
            self._free.put(slot)

    @contextlib.contextmanager
    def one(self) -> Iterator[dict[str, str]]:
        """Give the environment of a free place; there are as many as threads that ask."""
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

    def train(self, places: _Places) -> str | None:
        """Train unless finished; return what went wrong, or None."""
        if self._stopped:
            return "stopped before it began"
        layout = RunLayout(self.out)
        try:
            again = f"--overwrite {self.name}"
            if decide(pinned(self._recipe), layout, overwrite=self._overwrite, again=again) is Plan.LEAVE:
                self._say("already finished")
                return None
        except SpectraError as error:
            self._say(f"failed: {error}")
            return str(error)
        with places.one() as environment, TemporaryDirectory(prefix="spectra-study-") as scratch:
            recipe = Path(scratch) / "recipe.yaml"
            recipe.write_text(dump(self._recipe), encoding="utf-8")
            words = [str(self.out), str(recipe), *([OVERWRITE] if self._overwrite else [])]
            return self._work(worker_command(words, self._launch, places.count), environment, layout.log)

    def stop(self) -> None:
        """Stop the process, now or as soon as it begins, and the launcher's own with it."""
        self._stopped = True
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)

    def _work(self, command: list[str], environment: dict[str, str], log: Path) -> str | None:
        log.parent.mkdir(parents=True, exist_ok=True)
        last, fault = "it said nothing", None
        with log.open("a", encoding="utf-8") as file, self._start(command, environment) as process:
            for line in process.stdout or ():
                file.write(line)
                file.flush()
                last = line.strip() or last
                # After it a launcher tells at length that a process of its own failed.
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
        # In a group of its own: what interrupts the study on a terminal must not make every worker tell of it.
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
