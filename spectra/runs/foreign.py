"""Run directories of verl and OpenRLHF. TRL, LLaMA-Factory, axolotl and unsloth use the HF Trainer's layout.

verl (``verl.utils.checkpoint.fsdp_checkpoint_manager``, ``verl.model_merger``, ``verl.utils.tracking.FileLogger``)::

    <project>/<experiment>/
      latest_checkpointed_iteration.txt
      global_step_N/actor/{model_world_size_W_rank_R.pt, fsdp_config.json, lora_train_meta.json, huggingface/}
      global_step_N/actor/lora_adapter/      if the merger wrote it; its parent then holds the frozen base

OpenRLHF (``openrlhf.utils.deepspeed``)::

    <ckpt_path>/global_stepN_hf/             an adapter or full weights
    <ckpt_path>/_actor/global_stepN/         the resumable DeepSpeed state
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd

from spectra.errors import CorruptFileError
from spectra.runs.atomic import read_json
from spectra.runs.layout import MODEL_CONFIG
from spectra.runs.series import read_records, series_frame
from spectra.runs.snapshots import (
    NO_WEIGHTS,
    Snapshot,
    SnapshotSearch,
    adapter_base,
    collect,
    snapshot_kind,
    why_unreadable,
)

_VERL_STEP = re.compile(r"global_steps?_(\d+)")
_OPENRLHF_STEP = re.compile(r"global_step(\d+)_hf")
_DEEPSPEED_STEP = re.compile(r"global_step(\d+)")
_VERL_LATEST = "latest_checkpointed_iteration.txt"
_VERL_TRAINING = "lora_train_meta.json"

# Subdirectories that may hold weights, by precedence: an adapter comes before merged weights, which are rounded. The
# trainer of supervised runs has no actor/.
_VERL_SUBDIRECTORIES = (
    "actor/lora_adapter",
    "lora_adapter",
    "actor/huggingface/lora_adapter",
    "huggingface/lora_adapter",
    "actor/huggingface",
    "huggingface",
    "actor",
    ".",
)

# File patterns of sharded steps, by the merger's name for the backend that wrote them.
_VERL_SHARDS: Mapping[str, str] = {"fsdp": "model_world_size_*_rank_*.pt", "megatron": "dist_ckpt"}

# Names that verl logs and their names in ``spectra.runs.series``.
_VERL_NAMES: Mapping[str, str] = {
    "critic/score/mean": "reward",
    "actor/entropy": "entropy",
    "actor/entropy_loss": "entropy",
    "actor/grad_norm": "grad_norm",
    "actor/kl_loss": "kl",
    "actor/lr": "learning_rate",
    "response_length/mean": "completion_length",
    "response_length/clip_ratio": "clipped_completions",
}


def find_verl(path: Path) -> SnapshotSearch:
    """Return the snapshots of a verl run.

    Steps after the one in ``latest_checkpointed_iteration.txt`` are ignored: their save did not finish, or a resumed
    run abandoned them.

    Raises
    ------
    CorruptFileError
        If two directories have the same step, or the file with the latest step contains no number.
    """
    found = collect(path.iterdir(), _verl_step, _verl_weights)
    latest = _latest(path / _VERL_LATEST)
    if latest is None:
        late: tuple[Snapshot, ...] = ()
    else:
        late = tuple(snapshot for snapshot in found.snapshots if snapshot.step > latest)
    ignored = {name: _verl_reason(path / name, why) for name, why in (found.ignored or {}).items()}
    ignored |= {f"global_step_{s.step}": f"is newer than step {latest} of {_VERL_LATEST}: unfinished" for s in late}
    kept = tuple(snapshot for snapshot in found.snapshots if snapshot not in late)
    return SnapshotSearch(kept, ignored, _verl_base(kept[-1]) if kept else None)


def find_verl_step(path: Path) -> SnapshotSearch:
    """Return the snapshot of one verl step: ``global_step_N``, its ``actor``, or a directory of merged weights."""
    where = _verl_weights(path)
    kind = snapshot_kind(where)
    named = [step for step in map(_verl_step, (path.name, path.parent.name)) if step is not None]
    if kind is None:
        why = _verl_reason(path, NO_WEIGHTS)
        return SnapshotSearch(ignored={} if why == NO_WEIGHTS else {path.name: why})
    if where == path and not named:  # a plain adapter or checkpoint, not verl's
        return SnapshotSearch()
    snapshot = Snapshot(named[0] if named else 0, where, kind)
    return SnapshotSearch((snapshot,), {}, _verl_base(snapshot))


def find_openrlhf(path: Path) -> SnapshotSearch:
    """Return the snapshots of an OpenRLHF run.

    Raises
    ------
    CorruptFileError
        If two directories have the same step.
    """
    found = collect(path.iterdir(), _numbered(_OPENRLHF_STEP))
    actor = path / "_actor"
    states = sorted(actor.iterdir()) if actor.is_dir() else []
    shards = {
        f"_actor/{state.name}": _deepspeed_reason(state)
        for state in states
        if _DEEPSPEED_STEP.fullmatch(state.name) and any(state.glob("*_states.pt"))
    }
    kept = {} if found.snapshots else shards  # next to readable steps they are the trainer's own resumable state
    return replace(found, ignored={**(found.ignored or {}), **kept})


def read_verl_series(path: Path) -> pd.DataFrame:
    """Return the log of verl's ``file`` logger, one row per step; only the column ``step`` if there is no such log.

    The logger writes ``<project>/<experiment>.jsonl`` in the working directory of the training, and the checkpoints go
    to ``checkpoints/<project>/<experiment>`` there. A log inside or next to the run is found as well.

    Raises
    ------
    CorruptFileError
        If a line other than a torn last one is not an object with a step.
    """
    name = f"{path.name}.jsonl"
    run = path.absolute()
    candidates = [*sorted(path.glob("*.jsonl")), run.parent / name]
    if len(run.parents) > 2:
        candidates.append(run.parents[2] / run.parent.name / name)
    log = next((file for file in candidates if file.is_file()), None)
    records = [] if log is None else read_records(log)
    return series_frame([{**_renamed(record.get("data")), "step": record["step"]} for record in records])


def check_scale(snapshot: Snapshot) -> None:
    """Refuse a LoRA adapter with ``lora_alpha`` 0, which several versions of verl wrote for every alpha.

    Raises
    ------
    CorruptFileError
        If alpha is 0: the adapter would change nothing, and B·A without its scale is not the update.
    """
    if snapshot.config.get("peft_type") != "LORA" or snapshot.config.get("lora_alpha") != 0:
        return
    facts = next((p / _VERL_TRAINING for p in snapshot.path.parents[:3] if (p / _VERL_TRAINING).exists()), None)
    alpha = None if facts is None else read_json(facts).get("lora_alpha")
    value = f"{alpha} according to {_VERL_TRAINING}" if alpha else "actor_rollout_ref.model.lora_alpha in verl"
    raise CorruptFileError(
        "lora_alpha is 0 in adapter_config.json, so the scale of the update is lost (several versions of verl wrote 0)",
        where=snapshot.path,
        hint=f"restore the value used in training there ({value})",
    )


def _numbered(pattern: re.Pattern[str]) -> Callable[[str], int | None]:
    def parse(name: str) -> int | None:
        match = pattern.fullmatch(name)
        return None if match is None else int(match[1])

    return parse


_verl_step = _numbered(_VERL_STEP)


def _verl_weights(step: Path) -> Path:
    """Return the directory of a step that holds weights, or the step itself if none does."""
    directories = [step / name for name in _VERL_SUBDIRECTORIES]
    return next((path if path != step / "." else step for path in directories if snapshot_kind(path)), step)


def _verl_reason(step: Path, otherwise: str) -> str:
    """Return why a step has no readable weights: a broken known file, or shards that need merging."""
    broken = next((why for name in _VERL_SUBDIRECTORIES if (why := why_unreadable(step / name)) != NO_WEIGHTS), None)
    if broken is not None:
        return broken
    for where in (step / "actor", step):
        sharded = next(
            (backend for backend, pattern in _VERL_SHARDS.items() if any(where.glob(pattern))),
            None,
        )
        if sharded is not None:
            merged = where / "huggingface"
            command = f"python -m verl.model_merger merge --backend {sharded} --local_dir {where} --target_dir {merged}"
            return f"holds only {sharded} shards; merge them with `{command}`"
    return otherwise


def _verl_base(snapshot: Snapshot) -> str | None:
    """Return the base model of a verl snapshot: the adapter's, or the frozen weights that the merger wrote next to it.

    The merger leaves the name out of adapter_config.json; the model's config.json may still have it.
    """
    if snapshot.kind == "full":
        return None
    name, _ = adapter_base(snapshot)
    parent = snapshot.path.parent
    if name is not None or snapshot.path.name != "lora_adapter":
        return name
    if snapshot_kind(parent) == "full":
        return str(parent)
    config = next((p for p in (parent / MODEL_CONFIG, parent / "huggingface" / MODEL_CONFIG) if p.exists()), None)
    return None if config is None else read_json(config).get("_name_or_path") or None


def _latest(path: Path) -> int | None:
    if not path.exists():
        return None
    text = path.read_text(encoding="utf-8").strip()
    if not text.isdecimal():
        raise CorruptFileError(
            f"must contain a step number, got {text[:40]!r}", where=path, hint="write the last complete step there"
        )
    return int(text)


def _deepspeed_reason(state: Path) -> str:
    script, target = state.parent / "zero_to_fp32.py", state.parent.parent / f"{state.name}_hf"
    return (
        f"is a sharded DeepSpeed state without {target.name}/; gather it with `python {script} {state.parent} {target} "
        f"--tag {state.name} --safe_serialization` and copy config.json there, or train with --save_hf_ckpt"
    )


def _renamed(data: object) -> dict[str, object]:
    if not isinstance(data, dict):
        return {}
    return {_VERL_NAMES.get(str(key), str(key)): value for key, value in data.items()}
