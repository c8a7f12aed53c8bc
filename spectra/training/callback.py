"""``spectra.SpectraCallback``: snapshots and spectral numbers in anybody's HF or TRL trainer, in one line."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spectra.errors import BaseModelError, UsageError
from spectra.runs.directory import Snapshot, SnapshotKind, open_run
from spectra.runs.layout import RunLayout
from spectra.runs.manifest import BaseIdentity, Manifest, describe_environment, now
from spectra.runs.series import append_metrics, canonical
from spectra.training.callbacks import Callback
from spectra.training.model import ADAPTER
from spectra.training.pulse import PulseReader, warnings_of
from spectra.training.recipe import log_spaced
from spectra.training.shards import whole_shape
from spectra.training.snapshots import save_snapshot
from spectra.weights.base import fingerprint, resolve_base
from spectra.weights.initial import find_start
from spectra.weights.tensors import TensorStore

_LOG = logging.getLogger("spectra")
_SNAPSHOTS = 16


class SpectraCallback(Callback):
    """Saves ΔW while a HF Trainer or a TRL trainer trains, logs cheap spectral numbers, and warns early.

    The trainer's output directory becomes a run directory that ``spectra analyze`` reads. ::

        trainer = GRPOTrainer(..., callbacks=[spectra.SpectraCallback()])

    The numbers go to ``metrics.jsonl`` and to the trainer's log history. Give it the trainer afterwards, and they go
    wherever that reports (tensorboard, wandb, trackio)::

        trainer.add_callback(spectra.SpectraCallback(trainer))

    Parameters
    ----------
    trainer
        The trainer that reports.
    out
        Run directory; None is the trainer's ``output_dir``.
    every
        Steps between snapshots; None takes 16 in even ratios, since most of what happens to ΔW happens early.
    base
        The base model, where the model does not say which it is: directory or hub id.
    """

    def __init__(
        self,
        trainer: Any = None,
        *,
        out: str | Path | None = None,
        every: int | None = None,
        base: str | None = None,
    ) -> None:
        if every is not None and every < 1:
            raise UsageError(f"SpectraCallback(every={every})", cure="give 1 or more steps")
        self._trainer, self._every, self._base = trainer, every, base
        self._out = None if out is None else Path(out)
        self._steps: frozenset[int] = frozenset()
        self._records: list[Mapping[str, float]] = []
        self._pending: dict[str, float] = {}
        self._told: set[str] = set()

    def on_train_begin(self, args: Any, state: Any, control: Any, *, model: Any, **kwargs: Any) -> None:
        """Say which run this is, and save step 0 of one that starts."""
        self._layout = RunLayout(self._out or Path(args.output_dir))
        self._steps = _schedule(state.max_steps, self._every)
        self._name = self._base or _base_name(model)
        writes = state.is_world_process_zero
        if writes and state.global_step == 0:
            self._describe(args, model)
        if state.global_step == 0:
            save_snapshot(model, self._layout, 0, self._name, writes=writes)
        if writes:
            self._watch(model)

    def _watch(self, model: Any) -> None:
        base = resolve_base(self._name)
        self._kind: SnapshotKind = "adapter" if hasattr(model, "peft_config") else "full"
        first = Snapshot(0, self._layout.snapshot(0), self._kind)
        start = find_start(first, open_run(self._layout.root), TensorStore.open_model(base))
        self._pulse = PulseReader(base, start)

    def on_step_end(self, args: Any, state: Any, control: Any, *, model: Any, **kwargs: Any) -> None:
        """Save a step that is due, and measure it."""
        if state.global_step not in self._steps and state.global_step != state.max_steps:
            return
        # Every process takes part: where the model is sharded, each holds a share of the snapshot.
        writes = state.is_world_process_zero
        path = save_snapshot(model, self._layout, state.global_step, self._name, writes=writes)
        if writes:
            pulse = self._pulse.read(Snapshot(state.global_step, path, self._kind))
            self._report(pulse.logged())
            for warning in warnings_of(pulse, state.global_step, self._records):
                self._warn(warning)

    def on_log(self, args: Any, state: Any, control: Any, *, logs: dict[str, Any], **kwargs: Any) -> None:
        """Keep the trainer's record, with the numbers of the last snapshot in it."""
        if not state.is_world_process_zero or "train_runtime" in logs:
            return
        if self._pending:
            logs.update(self._pending)
            if state.log_history and state.log_history[-1].get("step") == state.global_step:
                state.log_history[-1].update(self._pending)
            self._pending = {}
        record = canonical(logs)
        self._records.append(record)
        append_metrics(self._layout.metrics, {"step": state.global_step, **record})

    def _report(self, numbers: dict[str, float]) -> None:
        if self._trainer is None:
            self._pending = numbers
        elif numbers:
            self._trainer.log(numbers)

    def _warn(self, warning: str) -> None:
        said = warning.partition(": ")[2]
        if said not in self._told:  # once a kind of fault: a warning a snapshot is not read
            self._told.add(said)
            _LOG.warning(warning)

    def _describe(self, args: Any, model: Any) -> None:
        versions, git, hardware = describe_environment()
        identity = BaseIdentity(self._name, None, fingerprint(resolve_base(self._name)))
        peft = getattr(model, "peft_config", {}).get(ADAPTER)
        method = "full" if peft is None else str(peft.peft_type.value).lower()
        algorithm = str(getattr(args, "loss_type", type(args).__name__))
        hardware["processes"] = args.world_size
        trainable = {name: whole_shape(at) for name, at in model.named_parameters() if at.requires_grad}
        Manifest(now(), versions, git, identity, method, algorithm, args.seed, hardware, trainable).write(
            self._layout.manifest
        )


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
            cure="name the adapter so",
        )
    name = model.config._name_or_path if adapters is None else adapters[ADAPTER].base_model_name_or_path
    if not name:
        raise BaseModelError(
            "the model does not say which base it is", where="SpectraCallback", cure="give it: base=DIR_OR_HUB_ID"
        )
    return str(name)
