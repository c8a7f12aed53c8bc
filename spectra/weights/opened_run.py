"""Open a run with its base model and its initialization."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spectra.errors import CorruptFileError, UsageError
from spectra.runs.directory import RunDirectory, open_run
from spectra.runs.layout import ADAPTER_WEIGHTS, MODEL_UPDATE
from spectra.runs.snapshots import Snapshot
from spectra.weights.initialization.find import find_initial_offset
from spectra.weights.readers.offset import InitialOffset
from spectra.weights.storage.base import find_base
from spectra.weights.storage.open_files import OpenFiles
from spectra.weights.storage.tensors import TensorStore
from spectra.weights.updates import Updates, open_updates, parameter_name


@dataclass(frozen=True, eq=False)
class OpenedRun:
    """A run whose base, initialization and updates are opened on first use.

    Each file is opened once and each configuration parsed once. A copy sent to another process keeps the parsed
    configurations and opens the tensor files again.

    Attributes
    ----------
    run
        The recognized run.
    given_base
        Base model to use instead of the one that the run names: a directory or a hub id.
    given_initial
        Step-0 adapter or residual base of a method that moves the base, if the run does not contain it.
    """

    run: RunDirectory
    given_base: str | None = None
    given_initial: Path | None = None

    @classmethod
    def open(cls, path: Path, base: str | None = None, initial: Path | None = None) -> "OpenedRun":
        """Recognize a run directory, an adapter or a full checkpoint.

        Parameters
        ----------
        path, base, initial
            See the attributes.

        Raises
        ------
        RunNotFoundError
            If no run is recognized there.
        CorruptFileError
            If a file that describes the run is broken.
        """
        return cls(open_run(path), base, initial)

    @property
    def base_name(self) -> str | None:
        """Name of the base model; None if neither the user nor the run names one."""
        return self.given_base or self.run.base_name

    @property
    def base_revision(self) -> str | None:
        """Commit, tag or branch of the base that the run names."""
        return None if self.given_base else self.run.base_revision

    @cached_property
    def base_dir(self) -> Path:
        """Directory of the base model; raises :class:`BaseModelError` if it is not found."""
        return find_base(self.run.path, self.run.base_name, self.run.base_revision, self.given_base)

    @cached_property
    def base(self) -> TensorStore:
        """The original base weights; raises :class:`BaseModelError` if there are none."""
        return TensorStore.open_model(self.base_dir, self.open_files)

    @cached_property
    def open_files(self) -> OpenFiles:
        """The open tensor files."""
        return OpenFiles()

    @cached_property
    def newest(self) -> Snapshot:
        """The newest snapshot, or the previous one if the newest is still being written."""
        try:
            self.require_whole(self.run.snapshots[-1])
        except CorruptFileError:
            return self.run.snapshots[max(len(self.run.snapshots) - 2, 0)]
        return self.run.snapshots[-1]

    @cached_property
    def initialization(self) -> InitialOffset | None:
        """Offset that initialization subtracted from the base; None if there is none.

        Raises
        ------
        MissingInitialError
            If the method moves the base and the initialization is missing.
        BaseModelError
            If it does not belong to this base.
        """
        return find_initial_offset(self.newest, self.run, self.base, self.given_initial)

    @property
    def method(self) -> str:
        """Name of the method, such as ``lora`` or ``full``."""
        return self.updates(self.newest.step).method if self.run.manifest is None else self.run.manifest.method

    def snapshot(self, step: int | None = None) -> Snapshot:
        """Return the snapshot of a step; None means the last.

        Raises
        ------
        UsageError
            If there is none.
        """
        if step is None:
            return self.run.snapshots[-1]
        found = {snapshot.step: snapshot for snapshot in self.run.snapshots}
        if step not in found:
            raise UsageError(
                f"there is no snapshot of step {step}", where=self.run.path, hint=f"steps: {sorted(found)}"
            )
        return found[step]

    def updates(self, step: int | None = None) -> Updates:
        """Return the updates of a step; None means the last.

        Raises
        ------
        UsageError
            If there is no snapshot of that step.
        SpectraError
            If it cannot be read exactly on this base.
        """
        snapshot = self.snapshot(step)
        if snapshot.step not in self._updates:
            self._updates[snapshot.step] = open_updates(snapshot, self.base, self.initialization)
        return self._updates[snapshot.step]

    def weight(self, module: str) -> Tensor:
        """Return a base parameter in float64, O × I for a matrix.

        Parameters
        ----------
        module
            The parameter's name without ``.weight``.

        Raises
        ------
        UsageError
            If the base has no such parameter.
        """
        return self.base[self.parameter(module)].to(torch.float64)

    def parameter(self, module: str) -> str:
        """Return the name of a module's base parameter; raises as :meth:`weight`."""
        name = parameter_name(module, self.base.files)
        if name is None:
            raise UsageError(f"the base has no parameter {module!r}", where=self.base_dir)
        return name

    def require_whole(self, snapshot: Snapshot) -> None:
        """Open the weight files of a snapshot.

        Raises
        ------
        CorruptFileError
            If one is truncated, or not safetensors.
        """
        if (snapshot.path / MODEL_UPDATE).exists():
            TensorStore.open_file(snapshot.path / MODEL_UPDATE, self.open_files)
        elif snapshot.kind == "full":
            TensorStore.open_model(snapshot.path, self.open_files)
        elif (snapshot.path / ADAPTER_WEIGHTS).exists():
            TensorStore.open_file(snapshot.path / ADAPTER_WEIGHTS, self.open_files)

    @cached_property
    def _updates(self) -> dict[int, Updates]:
        return {}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_updates"}
