"""Whether the adapter changes the layers it declares, and names and shapes fit the base."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

from spectra.analysis.doctor.case import Case
from spectra.analysis.doctor.diagnosis import fact, ok, skipped
from spectra.analysis.verdict.findings import Check
from spectra.weights.readers.adapter import Adapter
from spectra.weights.storage.tensors import TensorStore
from spectra.weights.updates import parameter_name

NAME = "targets"
_LAYER = re.compile(r"(?P<before>.*?\.)(?P<layer>\d+)\.(?P<kind>.+)")
# Modules that peft adds to modules_to_save for a task, whichever of them the model has.
_HEADS = {"SEQ_CLS": ("classifier", "score"), "TOKEN_CLS": ("classifier", "score")}
_TABLES = ("embed_tokens", "lm_head", "wte", "embed_in", "embed_out", "word_embeddings")


def check(case: Case) -> list[Check]:
    """Compare the names and shapes of the adapter's modules with the base's."""
    adapter, base = case.adapter, case.base
    if adapter is None:
        return []
    if base is None:
        error = case.obstacles.get("base")
        return [skipped(NAME, "no base model to compare with" if error is None else error.what, "pass it with --base")]
    checks = [*_unmatched(case, adapter, base), *_shapes(case, adapter, base), *_missing(adapter, base)]
    checks += _whole(adapter, base)
    return checks or [ok(NAME, f"all {len(adapter.parts)} modules are in the base, in every layer")]


def _unmatched(case: Case, adapter: Adapter, base: TensorStore) -> list[Check]:
    absent = [module for module in adapter.parts if parameter_name(module, base.files) is None]
    if not absent or adapter.config.get("target_parameters"):
        return []
    says = f"{len(absent)} of {len(adapter.parts)} modules are not in the base model, first {absent[0]}"
    action = "pass the base model it was trained on with --base; loaders silently drop such modules"
    share = len(absent) / len(adapter.parts)
    return [Check(NAME, "fault", fact("unmatched", says, share, 0.0), action, "wrong_base", str(case.base_dir or ""))]


def _shapes(case: Case, adapter: Adapter, base: TensorStore) -> list[Check]:
    wrong = []
    for module in case.matrices:
        parts = adapter.parts[module]
        if (
            not {"lora_A", "lora_B"} <= set(parts)
            or adapter.config.get("use_bdlora")
            or adapter.config.get("use_qalora")
        ):
            continue
        shape = (adapter.tensor(module, "lora_B").shape[0], adapter.tensor(module, "lora_A").shape[1])
        if shape != case.weight_shape(module):
            wrong.append((module, shape))
    if not wrong:
        return []
    module, shape = wrong[0]
    size = " × ".join(map(str, case.weight_shape(module)))
    says = f"{len(wrong)} updates do not fit the base, first {module}: {shape[0]} × {shape[1]} on {size}"
    action = "pass the base model it was trained on with --base"
    return [Check(NAME, "fault", fact("shapes", says, float(len(wrong)), 0.0), action, "wrong_base")]


def _missing(adapter: Adapter, base: TensorStore) -> list[Check]:
    """Find layers without a module type that other layers have."""
    there, possible = _by_kind(adapter.parts), _by_kind(_modules(base))
    gaps = {kind: possible[kind] - layers for kind, layers in there.items() if possible.get(kind, set()) - layers}
    if not gaps:
        return _unused_targets(adapter, there, possible)
    count = sum(map(len, gaps.values()))
    kind, layers = min(gaps.items())
    where = ", ".join(map(str, sorted(layers)[:5])) + (" …" if len(layers) > 5 else "")
    says = f"{count} modules that other layers have are missing, first {kind[1]} in layer {where}"
    if _chosen(adapter.config):
        return [Check(NAME, "note", fact("missing_layers", f"{says}; its configuration chooses layers", float(count)))]
    action = "save the adapter again from every rank, or name the layers with layers_to_transform"
    return [Check(NAME, "fault", fact("missing_layers", says, float(count), 0.0), action)]


def _unused_targets(
    adapter: Adapter, there: Mapping[tuple[str, str], set[int]], possible: Mapping[tuple[str, str], set[int]]
) -> list[Check]:
    targets = adapter.config.get("target_modules")
    if not isinstance(targets, list) or _chosen(adapter.config):
        return []
    held = {kind for _, kind in there}
    for target in map(str, targets):
        known = [kind for _, kind in possible if kind == target or kind.endswith(f".{target}")]
        if known and not held & set(known):
            says = f"target_modules names {target}; the base has it, the adapter does not"
            return [Check(NAME, "fault", fact("missing_targets", says, 1.0, 0.0), "save the complete adapter again")]
    return []


def _chosen(config: Mapping[str, object]) -> bool:
    """Return whether a configuration may exclude layers on purpose."""
    if any(config.get(key) is not None for key in ("layers_to_transform", "exclude_modules", "layers_pattern")):
        return True
    targets = config.get("target_modules")
    return isinstance(targets, str) or (isinstance(targets, list) and any(_LAYER.fullmatch(str(t)) for t in targets))


def _modules(base: TensorStore) -> list[str]:
    return [name.removesuffix(".weight") for name, shape in base.shapes.items() if len(shape) == 2]


def _by_kind(modules: Iterable[str]) -> dict[tuple[str, str], set[int]]:
    """Return the layers of each module type, by the parts of the name before and after the layer number."""
    found: dict[tuple[str, str], set[int]] = defaultdict(set)
    for module in modules:
        match = _LAYER.fullmatch(module)
        if match is not None:
            found[match["before"], match["kind"]].add(int(match["layer"]))
    return found


def _whole(adapter: Adapter, base: TensorStore) -> list[Check]:
    """Find full parameters that are saved without being named, or named without being saved."""
    given = adapter.config.get("modules_to_save") or []
    named = [given] if isinstance(given, str) else [str(name) for name in given]
    heads = _HEADS.get(str(adapter.config.get("task_type")), ())
    biases = adapter.config.get("bias", "none") != "none" or bool(adapter.config.get("lora_bias"))
    saved = sorted(adapter.full)
    checks = []
    held = {name for name in (*named, *heads) if any(_is_of(parameter, name) for parameter in saved)}
    lost = [name for name in named if not held & {name, *(heads if name in heads else ())}]
    if lost:
        says = f"modules_to_save names {lost[0]}, which the adapter does not contain"
        checks.append(
            Check(
                NAME, "fault", fact("modules_to_save", says, float(len(lost)), 0.0), "save the complete adapter again"
            )
        )
    odd = [p for p in saved if not any(_is_of(p, n) for n in named) and not (biases and p.endswith(".bias"))]
    if odd:
        tables = all(any(table in parameter for table in _TABLES) for parameter in odd)
        why = " (peft saves embeddings whose vocabulary was resized)" if tables else ""
        says = f"{len(odd)} full parameters are saved that modules_to_save does not name, first {odd[0]}{why}"
        action = "pass save_embedding_layers=False unless they trained: loaders replace the base parameters with them"
        checks.append(Check(NAME, "note", fact("modules_to_save", says, float(len(odd)), 0.0), action))
    resized = [p for p in saved if p in base.shapes and _shape(adapter, p) != base.shapes[p]]
    if resized:
        says = f"{resized[0]} has {_shape(adapter, resized[0])}, the base {base.shapes[resized[0]]}"
        checks.append(
            Check(NAME, "note", fact("resized", says, float(len(resized)), 0.0), "resize the base model first")
        )
    return checks


def _is_of(parameter: str, module: str) -> bool:
    owner = parameter.rpartition(".")[0]
    return owner == module or owner.endswith(f".{module}") or f".{module}." in f".{parameter}"


def _shape(adapter: Adapter, parameter: str) -> tuple[int, ...]:
    store, key = adapter.store, adapter.full[parameter]
    return store.shapes[key] if isinstance(store, TensorStore) else tuple(store[key].shape)
