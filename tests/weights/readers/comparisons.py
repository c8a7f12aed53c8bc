"""Adapters of every method but LoRA, compared with peft's merge in float64 minus the original base."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from spectra.errors import SpectraError, UnsupportedMethodError
from spectra.linalg.decompositions.spectrum import numerical_rank
from spectra.linalg.operators.basic import Operator
from spectra.runs.directory import Snapshot
from spectra.weights.storage.tensors import TensorStore
from spectra.weights.updates import Updates, open_updates
from tests.builders import TARGETS
from tests.weights.conftest import make_adapter
from tests.weights.peft_merges import EXACT, ROUNDING, change_config, merged_differences, updates_of

Q, UP, DOWN = (f"model.layers.0.{name}" for name in ("self_attn.q_proj", "mlp.up_proj", "mlp.down_proj"))
ALL, QKV, FFN = {"target_modules": TARGETS}, {"target_modules": ["q_proj", "v_proj"]}, ["down_proj"]
EMBEDDED = {"target_modules": ["embed_tokens", "v_proj"]}
CONV = {"target_modules": ["c_attn", "c_proj", "c_fc"]}


def config_of(kind: str, settings: Mapping[str, Any]) -> Any:
    import peft

    targets = {} if kind == "TrainableTokensConfig" else {"target_modules": TARGETS}
    return getattr(peft, kind)(**{"task_type": "CAUSAL_LM", **targets, **settings})


def check_against_the_merge(base: Path, end: Path, tolerance: float) -> dict[str, Operator]:
    """Compare every module's ΔW with the merge; return them."""
    updates, store = updates_of(end, base)
    merged = {name.removesuffix(".weight"): tensor for name, tensor in merged_differences(base, end).items()}
    assert updates.skipped == {}
    assert set(merged) <= set(updates.matrices)
    found = {}
    for module, function in updates.matrices.items():
        weight = store[f"{module}.weight"].double()
        expected = merged.get(module, torch.zeros_like(weight))
        found[module] = delta = function(weight)
        allowed = tolerance * float(torch.linalg.matrix_norm(expected)) + ROUNDING * float(weight.norm())
        assert float(torch.linalg.matrix_norm(delta.dense() - expected)) <= allowed
        sigma, reference = delta.svdvals(), torch.linalg.svdvals(expected)
        assert float(torch.linalg.vector_norm(sigma - reference[: len(sigma)])) <= allowed
        assert numerical_rank(sigma, *delta.shape) <= delta.rank_bound
    return found


def check_case(llama: Path, out: Path, name: str, case: tuple[str, dict[str, Any], float, type[Operator], int]) -> None:
    """Compare a trained adapter with the merge, its operator and rank with the case's, its label with the name's."""
    kind, settings, tolerance, operator, bound = case
    end, _ = make_adapter(llama, out, config_of(kind, settings), size=1e-2)
    found = check_against_the_merge(llama, end, tolerance)
    delta = found.get(Q) or found["model.embed_tokens"]
    assert isinstance(delta, operator)
    assert delta.rank_bound <= bound
    assert delta.frobenius() > 1e-6
    assert updates_of(end, llama)[0].method == name.partition(",")[0].replace("tokens", "trainable-tokens")


def check_contradicted(
    llama: Path,
    out: Path,
    case: tuple[str, dict[str, Any], float, type[Operator], int],
    settings: Mapping[str, Any],
    error: type[SpectraError],
    words: str,
) -> None:
    """Check that settings that do not belong to a case's tensors are an error."""
    end, _ = make_adapter(llama, out, config_of(*case[:2]))
    change_config(end, **settings)
    updates, store = updates_of(end, llama)
    module = Q if Q in updates.matrices else "model.embed_tokens"
    with pytest.raises(error, match=words):
        updates.matrices[module](store[f"{module}.weight"].double())


def make(
    bases: dict[str, Path], out: Path, case: tuple[str, dict[str, Any], str, int], base: str | None = None
) -> tuple[Path, Path, Path]:
    """Return the directories of a case's base, of its trained adapter and of its start."""
    import peft

    kind, settings, default, _ = case
    directory = bases[base or default]
    return directory, *make_adapter(directory, out, getattr(peft, kind)(**settings))


def open_adapter(base: Path, adapter: Path) -> Updates:
    return open_updates(Snapshot(1, adapter, "adapter"), TensorStore.open_model(base), None)


def merged_minus_base(base: Path, adapter: Path) -> dict[str, Tensor]:
    """Return what peft's merge in float64 changes, by parameter, matrices as O × I.

    The base is loaded in its own dtype, as users load it, and widened after peft's initialisation: PSOFT refuses a
    base in float64, and OSF rounds to the dtype of the base.
    """
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter))
    merged = adapted.double().merge_and_unload().state_dict()
    store = TensorStore.open_model(base)
    differences = {name: merged[name] - tensor.double() for name, tensor in store.as_stored().items()}
    return {name: found.T if name in store.transposed else found for name, found in differences.items()}


def compare(base: Path, adapter: Path, *, tolerance: float = EXACT, square_bound: int | None = None) -> None:
    """Compare every parameter of the base: those that spectra does not name must not change."""
    updates, store = open_adapter(base, adapter), TensorStore.open_model(base)
    assert updates.skipped == {}
    for parameter, expected in merged_minus_base(base, adapter).items():
        module, weight = parameter.removesuffix(".weight"), store[parameter].double()
        if module in updates.matrices:
            delta = updates.matrices[module](weight)
            assert delta.shape == tuple(weight.shape)
            assert distance(delta.dense(), expected) <= tolerance, parameter
            rank = int(torch.linalg.matrix_rank(expected, rtol=max(tolerance, 1e-9)))
            assert rank <= delta.rank_bound
            if weight.shape[0] == weight.shape[1]:
                assert square_bound in (None, delta.rank_bound)
        elif module in updates.vectors:
            assert distance(updates.vectors[module](weight), expected) <= tolerance, parameter
        else:
            assert not expected.any(), parameter


def distance(found: Tensor, expected: Tensor) -> float:
    norm = float(torch.linalg.vector_norm(expected))
    difference = float(torch.linalg.vector_norm(found - expected))
    return difference / norm if norm > 0 else difference


def check_nothing_before_training(base: Path, end: Path, start: Path) -> None:
    """Check that an adapter changes nothing at its start, to the last digit."""
    updates, store = open_adapter(base, start), TensorStore.open_model(base)
    assert updates.matrices
    assert all(f(store[f"{module}.weight"].double()).frobenius() == 0 for module, f in updates.matrices.items())
    assert not any(f(store[module].double()).any() for module, f in updates.vectors.items())


def check_undetermined(
    bases: dict[str, Path], out: Path, kind: str, settings: Mapping[str, Any], base: str, words: str
) -> None:
    """Check that files that leave the update open are refused."""
    import peft

    _, start = make_adapter(bases[base], out, getattr(peft, kind)(**QKV, **settings))
    store = TensorStore.open_model(bases[base])
    with pytest.raises(UnsupportedMethodError, match=words):
        for module, function in open_adapter(bases[base], start).matrices.items():
            function(store[f"{module}.weight"].double())
