"""Directories of verl and OpenRLHF; TRL, LLaMA-Factory, axolotl and unsloth write the HF Trainer's.

verl (``verl.utils.checkpoint.fsdp_checkpoint_manager``, ``verl.model_merger``, ``verl.utils.tracking.FileLogger``)::

    <project>/<experiment>/
      latest_checkpointed_iteration.txt
      global_step_N/actor/{model_world_size_W_rank_R.pt, fsdp_config.json, lora_train_meta.json, huggingface/}
      global_step_N/actor/lora_adapter/      where the merger wrote it; its parent then holds the frozen base

OpenRLHF (``openrlhf.utils.deepspeed``)::

    <ckpt_path>/global_stepN_hf/             an adapter or whole weights
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
from spectra.runs.snapshots import NOTHING, Found, Snapshot, adapter_base, collect, reason, snapshot_kind

_VERL_STEP = re.compile(r"global_steps?_(\d+)")
_OPENRLHF_STEP = re.compile(r"global_step(\d+)_hf")
_DEEPSPEED_STEP = re.compile(r"global_step(\d+)")
_VERL_LATEST = "latest_checkpointed_iteration.txt"
_VERL_TRAINING = "lora_train_meta.json"

# An adapter comes before merged weights, which are rounded. The trainer of supervised runs has no actor/.
_VERL_PLACES = (
    "actor/lora_adapter",
    "lora_adapter",
    "actor/huggingface/lora_adapter",
    "huggingface/lora_adapter",
    "actor/huggingface",
    "huggingface",
    "actor",
    ".",
)

# Which files say that a step is in shards, by the merger's name for the backend that wrote them.
_VERL_SHARDS: Mapping[str, str] = {"fsdp": "model_world_size_*_rank_*.pt", "megatron": "dist_ckpt"}

# What verl logs, under the names of ``spectra.runs.series``.
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


def find_verl(path: Path) -> Found:
    """Return the snapshots of a verl run.

    A step above the one in ``latest_checkpointed_iteration.txt`` is ignored: its save did not finish, or it belongs to
    a branch that a resumed run left.

    Raises
    ------
    CorruptFileError
        If two directories are the same step, or the file that names the latest one holds no number.
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
    return Found(kept, ignored, _verl_base(kept[-1]) if kept else None)


def find_verl_step(path: Path) -> Found:
    """Return the snapshot of one verl step: ``global_step_N``, its ``actor``, or a directory that it was merged to."""
    where = _verl_weights(path)
    kind = snapshot_kind(where)
    named = [step for step in map(_verl_step, (path.name, path.parent.name)) if step is not None]
    if kind is None:
        why = _verl_reason(path, NOTHING)
        return Found(ignored={} if why == NOTHING else {path.name: why})
    if where == path and not named:  # a plain adapter or checkpoint, which is nothing of verl's
        return Found()
    snapshot = Snapshot(named[0] if named else 0, where, kind)
    return Found((snapshot,), {}, _verl_base(snapshot))


def find_openrlhf(path: Path) -> Found:
    """Return the snapshots of an OpenRLHF run.

    Raises
    ------
    CorruptFileError
        If two directories are the same step.
    """
    found = collect(path.iterdir(), _numbered(_OPENRLHF_STEP))
    actor = path / "_actor"
    states = sorted(actor.iterdir()) if actor.is_dir() else []
    shards = {
        f"_actor/{state.name}": _deepspeed_reason(state)
        for state in states
        if _DEEPSPEED_STEP.fullmatch(state.name) and any(state.glob("*_states.pt"))
    }
    kept = {} if found.snapshots else shards  # beside readable steps they are the trainer's own resumable state
    return replace(found, ignored={**(found.ignored or {}), **kept})


def read_verl_series(path: Path) -> pd.DataFrame:
    """Return what verl's ``file`` logger wrote for a run, one row a step; only ``step`` where there is no such log.

    The logger writes ``<project>/<experiment>.jsonl`` under the directory that training was started in, and the
    checkpoints go to ``checkpoints/<project>/<experiment>`` there. A log inside or beside the run is found as well.

    Raises
    ------
    CorruptFileError
        If a line other than a torn last one is not an object with a step.
    """
    name = f"{path.name}.jsonl"
    there = path.absolute()
    places = [*sorted(path.glob("*.jsonl")), there.parent / name]
    if len(there.parents) > 2:
        places.append(there.parents[2] / there.parent.name / name)
    log = next((place for place in places if place.is_file()), None)
    records = [] if log is None else read_records(log)
    return series_frame([{**_renamed(record.get("data")), "step": record["step"]} for record in records])


def check_scale(snapshot: Snapshot, config: Mapping[str, object]) -> None:
    """Refuse a LoRA adapter whose ``lora_alpha`` is 0, which several versions of verl wrote whatever alpha was.

    Raises
    ------
    CorruptFileError
        If alpha is 0: the adapter would change nothing, and B·A without its scale is not the update.
    """
    if config.get("peft_type") != "LORA" or config.get("lora_alpha") != 0:
        return
    facts = next((p / _VERL_TRAINING for p in snapshot.path.parents[:3] if (p / _VERL_TRAINING).exists()), None)
    alpha = None if facts is None else read_json(facts).get("lora_alpha")
    value = f"{alpha}, says {_VERL_TRAINING}" if alpha else "actor_rollout_ref.model.lora_alpha in verl"
    raise CorruptFileError(
        "lora_alpha is 0 in adapter_config.json, so the scale of the update is lost (verl wrote 0 whatever it was)",
        where=snapshot.path,
        hint=f"write the alpha of the training there ({value})",
    )


def _numbered(pattern: re.Pattern[str]) -> Callable[[str], int | None]:
    def parse(name: str) -> int | None:
        match = pattern.fullmatch(name)
        return None if match is None else int(match[1])

    return parse


_verl_step = _numbered(_VERL_STEP)


def _verl_weights(step: Path) -> Path:
    """Return the directory of a step that holds weights, or the step itself where none does."""
    places = [step / place for place in _VERL_PLACES]
    return next((place if place != step / "." else step for place in places if snapshot_kind(place)), step)


def _verl_reason(step: Path, otherwise: str) -> str:
    """Return why a step has no readable weights: something broken in a known place, or shards that need merging."""
    broken = next((why for place in _VERL_PLACES if (why := reason(step / place)) != NOTHING), None)
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
    """Return the base of a verl snapshot: as the adapter names it, or the frozen weights that were merged beside it.

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
        raise CorruptFileError(f"holds no step but {text[:40]!r}", where=path, hint="write the last whole step there")
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
