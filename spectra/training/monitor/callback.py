"""``spectra.SpectraCallback``: snapshots and spectral numbers in anybody's HF or TRL trainer, in one line."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from spectra.errors import BaseModelError, MissingInitialError, SpectraError, UsageError
from spectra.runs.directory import Snapshot, SnapshotKind, open_run
from spectra.runs.layout import RunLayout
from spectra.runs.manifest import BaseIdentity, Manifest, describe_environment, now
from spectra.runs.series import canonical
from spectra.runs.snapshots import snapshot_kind
from spectra.training.compat.deepspeed import whole_shape
from spectra.training.compat.transformers import call_first
from spectra.training.distributed.processes import Processes
from spectra.training.loop.callbacks import Callback
from spectra.training.monitor.live_metrics import PulseReader, warnings_of
from spectra.training.monitor.output_dir import append_whole, begin, go_on
from spectra.training.policy.policy import ADAPTER
from spectra.training.policy.snapshots import save_snapshot
from spectra.training.recipe.schedules import log_spaced
from spectra.weights.initialization.find import find_start
from spectra.weights.readers.families.lora_options import moving_start
from spectra.weights.readers.offset import Start
from spectra.weights.storage.base import fingerprint, resolve_base
from spectra.weights.storage.tensors import TensorStore

_LOG = logging.getLogger("spectra")
_SNAPSHOTS = 16
# What saving and measuring may fail of (safetensors has an error of its own for a full disk); training is not ended.
_FAULTS = (SpectraError, OSError, SafetensorError)
# The trainer's records: a regular one has the first, the summary of the whole run the second.
_REGULAR, _SUMMARY = "loss", "train_runtime"


class SpectraCallback(Callback):
    """Saves ΔW while a HF Trainer or a TRL trainer trains, logs cheap spectral numbers, and warns early.

    The trainer's output directory becomes a run directory that ``spectra analyze`` reads. ::

        trainer = GRPOTrainer(..., callbacks=[spectra.SpectraCallback()])

    The numbers go to ``metrics.jsonl`` at the step of their snapshot, and into the trainer's next regular record in its
    log history. Give it the trainer afterwards, and that record has them wherever it is reported (tensorboard, wandb,
    trackio)::

        trainer.add_callback(spectra.SpectraCallback(trainer))

    A directory that holds a run is refused before training begins; a resumed trainer goes on with it, and what lies
    after the step that it resumes from is removed. Once training has begun, what cannot be saved or measured is warned
    of once, and training goes on.

    Parameters
    ----------
    trainer
        The trainer that reports.
    out
        Run directory; None is the trainer's ``output_dir``.
    every
        Steps between snapshots; None takes 16 in even ratios, since most of what happens to ΔW happens early. The last
        step is saved in any case.
    base
        The base model, where the model does not say which it is: directory or hub id.
    overwrite
        Remove a run that is there when training starts at step 0: snapshots, log, evaluations and analysis, and none of
        the trainer's own files.
    """

    def __init__(
        self,
        trainer: Any = None,
        *,
        out: str | Path | None = None,
        every: int | None = None,
        base: str | None = None,
        overwrite: bool = False,
    ) -> None:
        if every is not None and every < 1:
            raise UsageError(f"SpectraCallback(every={every})", hint="give 1 or more steps")
        self._trainer, self._every, self._base, self._overwrite = trainer, every, base, overwrite
        self._out = None if out is None else Path(out)
        self._steps: frozenset[int] = frozenset()
        self._records: list[Mapping[str, float]] = []
        self._pending: dict[str, float] = {}
        self._told: set[str] = set()
        self._last: int | None = None
        self._began = False

    def on_train_begin(self, args: Any, state: Any, control: Any, *, model: Any, **kwargs: Any) -> None:
        """Say which run this is, and save step 0 of one that starts.

        Raises
        ------
        RunExistsError
            If the directory holds a run, and training starts at step 0 or is another one.
        BaseModelError
            If the base is not known.
        MissingInitialError
            If the method moves the base, and step 0 is not there.
        """
        self._layout = RunLayout(self._out or Path(args.output_dir))
        self._steps = _schedule(state.max_steps, self._every)
        self._name = self._base or _base_name(model)
        self._kind: SnapshotKind = "adapter" if hasattr(model, "peft_config") else "full"
        self._records, self._pending, self._last = [], {}, None
        self._report_first()
        _once(state, lambda: self._open(args, state, model))
        if state.global_step == 0:
            self._save(state, model)
        _once(state, lambda: self._watch(model))
        self._began = True

    def on_step_end(self, args: Any, state: Any, control: Any, *, model: Any, **kwargs: Any) -> None:
        """Save a step that is due, and measure it."""
        if state.global_step in self._steps or state.global_step == state.max_steps:
            self._save_and_measure(state, model)

    def on_log(self, args: Any, state: Any, control: Any, *, logs: dict[str, Any], **kwargs: Any) -> None:
        """Keep the trainer's record, and put the newest numbers into a regular one.

        The summary comes when training has ended, before the trainer may load its best weights.
        """
        if not self._began:  # an evaluation before training
            return
        if _SUMMARY in logs and self._last != state.global_step:
            self._save_and_measure(state, kwargs["model"])
        if not state.is_world_process_zero:
            return
        if _SUMMARY not in logs:
            record = canonical(logs)
            self._records.append(record)
            self._append({"step": state.global_step, **record})
        if self._pending and not {_REGULAR, _SUMMARY}.isdisjoint(logs):
            logs.update(self._pending)
            if state.log_history and state.log_history[-1].get("step") == state.global_step:
                state.log_history[-1].update(self._pending)
            self._pending = {}

    def on_train_end(self, args: Any, state: Any, control: Any, *, model: Any, **kwargs: Any) -> None:
        """Save the last step, if a trainer without a summary stopped before it was due."""
        loaded = getattr(args, "load_best_model_at_end", False) and getattr(state, "best_model_checkpoint", None)
        if self._last != state.global_step and not loaded:
            self._save_and_measure(state, model)

    def _open(self, args: Any, state: Any, model: Any) -> None:
        manifest = self._describe(args, model)
        if state.global_step == 0:
            begin(self._layout, manifest, overwrite=self._overwrite)
        else:
            go_on(self._layout, manifest, state.global_step)

    def _watch(self, model: Any) -> None:
        base = resolve_base(self._name)
        self._pulse = PulseReader(base, self._start(model, base))

    def _start(self, model: Any, base: Path) -> Start | None:
        first = Snapshot(0, self._layout.snapshot(0), self._kind)
        if snapshot_kind(first.path) is not None:
            return find_start(first, open_run(self._layout.root), TensorStore.open_model(base))
        moving = moving_start(vars(model.peft_config[ADAPTER])) if self._kind == "adapter" else None
        if moving is not None:
            raise MissingInitialError(
                f"{moving} moves the base when it begins, and there is no snapshot of step 0, so ΔW cannot be told",
                where=self._layout.root,
                hint="train from step 0 with SpectraCallback, or go on without it",
            )
        return None

    def _save_and_measure(self, state: Any, model: Any) -> None:
        path = self._save(state, model)
        if path is None or not state.is_world_process_zero:
            return
        step = state.global_step
        try:
            pulse = self._pulse.read(Snapshot(step, path, self._kind))
        except _FAULTS as error:
            self._warn(f"step {step}: the snapshot is not measured ({error}); training goes on", "measure")
            return
        if pulse is None:
            return
        self._pending = pulse.logged()
        if self._pending:
            self._append({"step": step, **self._pending})
        for warning in warnings_of(pulse, step, self._records):
            self._warn(warning)

    def _save(self, state: Any, model: Any) -> Path | None:
        """Save a step; None where that failed. Every process takes part: of a sharded model each holds a share."""
        step, writes = state.global_step, state.is_world_process_zero
        self._last = step
        try:
            return save_snapshot(model, self._layout, step, self._name, writes=writes)
        except _FAULTS as error:
            if step == 0 and isinstance(error, SpectraError):  # nothing is lost yet
                raise
            self._warn(f"step {step}: the snapshot is not saved ({error}); training goes on", "save")
            return None

    def _append(self, record: Mapping[str, float | int]) -> None:
        try:
            append_whole(self._layout.metrics, record)
        except OSError as error:
            self._warn(f"step {record['step']}: the log is not written ({error}); training goes on", "log")

    def _report_first(self) -> None:
        """Go before the callbacks that report, so that they see the record with our numbers in it."""
        if self._trainer is not None:
            call_first(self._trainer, self)

    def _warn(self, warning: str, kind: str | None = None) -> None:
        said = kind or warning.partition(": ")[2]
        if said not in self._told:  # once a kind of fault: a warning a snapshot is not read
            self._told.add(said)
            _LOG.warning(" ".join(warning.split()))

    def _describe(self, args: Any, model: Any) -> Manifest:
        versions, git, hardware = describe_environment()
        identity = BaseIdentity(self._name, None, fingerprint(resolve_base(self._name)))
        peft = getattr(model, "peft_config", {}).get(ADAPTER)
        method = "full" if peft is None else str(peft.peft_type.value).lower()
        algorithm = str(getattr(args, "loss_type", type(args).__name__))
        hardware["processes"] = args.world_size
        trainable = {name: whole_shape(at) for name, at in model.named_parameters() if at.requires_grad}
        return Manifest(now(), versions, git, identity, method, algorithm, args.seed, hardware, trainable)


def _once(state: Any, work: Callable[[], None]) -> None:
    """Do something on the process that writes; where it refuses, the others of a launcher end with it."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        Processes(distributed.get_rank(), distributed.get_world_size()).once(work)
    elif state.is_world_process_zero:
        work()


def _schedule(last: int, every: int | None) -> frozenset[int]:
    if every is not None:
        return frozenset(range(every, last + 1, every))
    return frozenset(log_spaced(last, min(_SNAPSHOTS, last)) if last > 0 else ())


def _base_name(model: Any) -> str:
    """Return the name of the model's base, as the model itself knows it."""
    adapters = getattr(model, "peft_config", None)
    if adapters is not None and ADAPTER not in adapters:
        raise UsageError(
            f"SpectraCallback saves the adapter {ADAPTER!r}, and the model has {sorted(adapters)}",
            hint="name the adapter so",
        )
    name = model.config.name_or_path if adapters is None else adapters[ADAPTER].base_model_name_or_path
    if not name:
        raise BaseModelError(
            "the model does not say which base it is", where="SpectraCallback", hint="give it: base=DIR_OR_HUB_ID"
        )
    return str(name)
