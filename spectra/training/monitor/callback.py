"""``spectra.SpectraCallback``: snapshots and live spectral metrics in any HF or TRL trainer."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from spectra.errors import BaseModelError, MissingInitialError, SpectraError, UsageError
from spectra.runs.directory import Snapshot, SnapshotKind
from spectra.runs.layout import RunLayout
from spectra.runs.manifest import BaseIdentity, Manifest, describe_environment, now
from spectra.runs.series import canonical
from spectra.runs.snapshots import snapshot_kind
from spectra.training.compat.deepspeed import whole_shape
from spectra.training.compat.transformers import call_first
from spectra.training.distributed.processes import Processes
from spectra.training.loop.callbacks import Callback
from spectra.training.monitor.live_metrics import LiveMetricsReader, live_warnings
from spectra.training.monitor.output_dir import append_atomically, create_run, resume_run
from spectra.training.policy.policy import ADAPTER
from spectra.training.policy.snapshots import save_snapshot
from spectra.training.recipe.schedules import log_spaced
from spectra.weights.opened_run import OpenedRun
from spectra.weights.readers.families.lora_options import moving_start
from spectra.weights.storage.base import fingerprint, resolve_base
from spectra.weights.storage.tensors import TensorStore

_LOG = logging.getLogger("spectra")
_SNAPSHOTS = 16
# Errors of saving and measuring that do not stop training (safetensors has its own error for a full disk).
_FAULTS = (SpectraError, OSError, SafetensorError)
# Keys that identify a regular record of the trainer, and its summary of the run.
_REGULAR, _SUMMARY = "loss", "train_runtime"


class SpectraCallback(Callback):
    """Saves ΔW during training with an HF or TRL trainer, logs cheap spectral metrics, and warns early.

    The trainer's output directory becomes a run directory that ``spectra analyze`` reads. ::

        trainer = GRPOTrainer(..., callbacks=[spectra.SpectraCallback()])

    The metrics are written to ``metrics.jsonl`` at the step of their snapshot, and added to the trainer's next regular
    record in its log history. With the trainer as argument, loggers (tensorboard, wandb, trackio) get them too::

        trainer.add_callback(spectra.SpectraCallback(trainer))

    If the directory already holds a run, training is refused before it starts. A resumed trainer resumes the run, and
    snapshots and records after its step are removed. During training, a failure to save or measure is a warning, given
    once, and training continues.

    Parameters
    ----------
    trainer
        The trainer, so that its loggers get the metrics.
    out
        Run directory; None takes the trainer's ``output_dir``.
    every
        Steps between snapshots; None takes 16 snapshots with constant ratio, since most of the change of ΔW happens
        early. The last step is always saved.
    base
        Directory or hub id of the base model, if the model's config does not name it.
    overwrite
        Delete an existing run when training starts at step 0: snapshots, log, evaluations and analysis, but no files of
        the trainer.
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
            raise UsageError(f"SpectraCallback(every={every}): must be at least 1", hint="choose a larger number")
        self._trainer, self._every, self._base, self._overwrite = trainer, every, base, overwrite
        self._out = None if out is None else Path(out)
        self._steps: frozenset[int] = frozenset()
        self._records: list[Mapping[str, float]] = []
        self._pending: dict[str, float] = {}
        self._warned: set[str] = set()
        self._last: int | None = None
        self._began = False

    def on_train_begin(self, args: Any, state: Any, control: Any, *, model: Any, **kwargs: Any) -> None:
        """Open the run directory, and save step 0 of a new run.

        Raises
        ------
        RunExistsError
            If the directory holds a run, and training starts at step 0 or belongs to another run.
        BaseModelError
            If the base model is not known.
        MissingInitialError
            If the method moves the base, and the snapshot of step 0 is missing.
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
        """Save and measure a scheduled step."""
        if state.global_step in self._steps or state.global_step == state.max_steps:
            self._save_and_measure(state, model)

    def on_log(self, args: Any, state: Any, control: Any, *, logs: dict[str, Any], **kwargs: Any) -> None:
        """Store the trainer's record, and add the newest metrics to a regular one.

        The summary is logged at the end of training, before the trainer may load its best weights.
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
        """Save the last step, if a trainer without a summary stopped early."""
        loaded = getattr(args, "load_best_model_at_end", False) and getattr(state, "best_model_checkpoint", None)
        if self._last != state.global_step and not loaded:
            self._save_and_measure(state, model)

    def _open(self, args: Any, state: Any, model: Any) -> None:
        manifest = self._describe(args, model)
        if state.global_step == 0:
            create_run(self._layout, manifest, overwrite=self._overwrite)
        else:
            resume_run(self._layout, manifest, state.global_step)

    def _watch(self, model: Any) -> None:
        if snapshot_kind(self._layout.snapshot(0)) is not None:
            opened = OpenedRun.open(self._layout.root, base=self._name)
            self._live_metrics = LiveMetricsReader(opened.base, opened.initialization)
            return
        moving = moving_start(vars(model.peft_config[ADAPTER])) if self._kind == "adapter" else None
        if moving is not None:
            raise MissingInitialError(
                f"{moving} moves the base at initialization, and there is no snapshot of step 0, so ΔW is unknown",
                where=self._layout.root,
                hint="train from step 0 with SpectraCallback, or resume without it",
            )
        self._live_metrics = LiveMetricsReader(TensorStore.open_model(resolve_base(self._name)))

    def _save_and_measure(self, state: Any, model: Any) -> None:
        path = self._save(state, model)
        if path is None or not state.is_world_process_zero:
            return
        step = state.global_step
        try:
            metrics = self._live_metrics.read(Snapshot(step, path, self._kind))
        except _FAULTS as error:
            self._warn(f"step {step}: the snapshot is not measured ({error}); training continues", "measure")
            return
        if metrics is None:
            return
        self._pending = metrics.logged()
        if self._pending:
            self._append({"step": step, **self._pending})
        for warning in live_warnings(metrics, step, self._records):
            self._warn(warning)

    def _save(self, state: Any, model: Any) -> Path | None:
        """Save a step; None if that failed. Every process takes part, because each may hold a shard of the model."""
        step, writes = state.global_step, state.is_world_process_zero
        self._last = step
        try:
            return save_snapshot(model, self._layout, step, self._name, writes=writes)
        except _FAULTS as error:
            if step == 0 and isinstance(error, SpectraError):  # nothing is lost yet
                raise
            self._warn(f"step {step}: the snapshot is not saved ({error}); training continues", "save")
            return None

    def _append(self, record: Mapping[str, float | int]) -> None:
        try:
            append_atomically(self._layout.metrics, record)
        except OSError as error:
            self._warn(f"step {record['step']}: the log is not written ({error}); training continues", "log")

    def _report_first(self) -> None:
        """Move this callback before the loggers, so that they get the metrics."""
        if self._trainer is not None:
            call_first(self._trainer, self)

    def _warn(self, warning: str, kind: str | None = None) -> None:
        key = kind or warning.partition(": ")[2]
        if key not in self._warned:  # once per kind: users ignore a warning at every snapshot
            self._warned.add(key)
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
    """Call a function on the writing process; if it raises, the other processes exit too."""
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
    """Return the name of the base model from the model's config."""
    adapters = getattr(model, "peft_config", None)
    if adapters is not None and ADAPTER not in adapters:
        raise UsageError(
            f"SpectraCallback saves the adapter {ADAPTER!r}, and the model has {sorted(adapters)}",
            hint="rename the adapter to this name",
        )
    name = model.config.name_or_path if adapters is None else adapters[ADAPTER].base_model_name_or_path
    if not name:
        raise BaseModelError(
            "the model does not name its base model", where="SpectraCallback", hint="pass base=DIR_OR_HUB_ID"
        )
    return str(name)
