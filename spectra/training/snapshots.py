"""Snapshots: the trained weights of one step, in float32, in the format that their own library loads."""

import copy
from pathlib import Path
from typing import Any

from spectra.runs.atomic import atomic_directory, read_json, write_json
from spectra.runs.layout import ADAPTER_WEIGHTS, MODEL_CONFIG, RunLayout
from spectra.training.model import ADAPTER


def save_snapshot(model: Any, layout: RunLayout, step: int, base: str, revision: str | None = None) -> Path:
    """Save what trains, atomically; a snapshot of the same step is replaced.

    An adapter becomes a directory that ``PeftModel.from_pretrained`` loads, a fully trained model one that
    ``AutoModelForCausalLM.from_pretrained`` loads. Nothing is pickled.

    Parameters
    ----------
    model
        A peft model, or a model whose every parameter trains.
    layout
        The run.
    step
        Optimizer steps done.
    base, revision
        The base as the recipe names it, so that a run can move to another machine.

    Returns
    -------
    Path
        The snapshot's directory.
    """
    with atomic_directory(layout.snapshot(step)) as directory:
        if hasattr(model, "peft_config"):
            _save_adapter(model, directory, base, revision)
        else:
            _save_full(model, directory)
        # safetensors lets only the owner read its files; a run is as readable as the rest of its directory.
        mode = next(directory.glob("*.json")).stat().st_mode
        for file in directory.iterdir():
            file.chmod(mode)
    return layout.snapshot(step)


def _save_adapter(model: Any, directory: Path, base: str, revision: str | None) -> None:
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    state = get_peft_model_state_dict(model, adapter_name=ADAPTER, save_embedding_layers=False)
    save_file({name: _float32(tensor) for name, tensor in state.items()}, directory / ADAPTER_WEIGHTS, {"format": "pt"})
    config = copy.deepcopy(model.peft_config[ADAPTER])
    config.base_model_name_or_path = base
    config.revision = revision
    config.inference_mode = True
    config.target_modules = sorted(config.target_modules)  # peft holds a set: its order changes from process to process
    config.save_pretrained(directory)


def _save_full(model: Any, directory: Path) -> None:
    state = {name: _float32(tensor) for name, tensor in model.state_dict().items()}
    model.save_pretrained(directory, state_dict=state)
    config = read_json(directory / MODEL_CONFIG)
    write_json(directory / MODEL_CONFIG, {**config, "dtype": "float32"})


def _float32(tensor: Any) -> Any:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.is_floating_point() else tensor).contiguous()
