"""Whether the adapter's configuration fits its tensors, and whether the tensors trained."""

import re
from collections.abc import Callable

from spectra.analysis.doctor.case import Case, is_finite, unpaired
from spectra.analysis.doctor.diagnosis import fact, ok, skipped
from spectra.analysis.doctor.files import fault
from spectra.analysis.verdict.findings import Check
from spectra.errors import UnsupportedMethodError
from spectra.weights.readers.adapter import Adapter
from spectra.weights.readers.families.lora_options import MAGNITUDE, scale
from spectra.weights.readers.rank_patterns import by_pattern, rank_and_alpha

NAME = "label"
# s above which α/√r of rsLoRA is many times what the same α gives LoRA.
_LARGE_SCALE = 4.0
_RESTORE = "restore the adapter_config.json that belongs to these tensors"


def check(case: Case) -> list[Check]:
    """Compare configuration and tensors of the newest readable adapter."""
    adapter = case.adapter
    if adapter is None:
        error = case.obstacles.get("adapter")
        if isinstance(error, UnsupportedMethodError):
            return [skipped(NAME, error.what)]
        return [fault(NAME, error)] if error is not None and "run" not in case.obstacles else []
    checks = [*_unread(case), *_finite(case, adapter)]
    if adapter.config.get("peft_type") == "LORA":
        checks += [found for rule in _RULES for found in rule(case, adapter)]
    return checks or [ok(NAME, f"{_count(adapter)} fit their adapter_config.json")]


def _count(adapter: Adapter) -> str:
    return f"the tensors of {len(adapter.parts)} modules"


def _unread(case: Case) -> list[Check]:
    """Report what stopped the reader, unless another check reports it better."""
    error = case.obstacles.get("changes")
    if error is None or MAGNITUDE in error.what or case.obstacles.get("start") is not None:
        return []
    return [skipped(NAME, error.what, error.hint or "")]


def _finite(case: Case, adapter: Adapter) -> list[Check]:
    if case.finite:
        return []
    broken = [key for key, tensor in adapter.store.items() if not is_finite(tensor)]
    says = f"{len(broken)} of {len(adapter.store)} tensors contain NaN or infinity, first {broken[0]}"
    action = "restart from the last finite snapshot with a tenth of the learning rate"
    return [Check(NAME, "fault", fact("non_finite", says, float(len(broken)), 0.0), action, "diverging")]


def _magnitudes(case: Case, adapter: Adapter) -> list[Check]:
    declared = bool(adapter.config.get("use_dora"))
    holders = [module for module, parts in adapter.parts.items() if MAGNITUDE in parts]
    if declared == bool(holders) and len(holders) in (0, len(adapter.parts)):
        return []
    if declared and not holders:
        says = "says use_dora, but contains no magnitude vector: it was trained or saved as plain LoRA"
    elif declared:
        says = f"says use_dora, but only {len(holders)} of {len(adapter.parts)} modules have a magnitude vector"
    else:
        says = f"contains the magnitude vectors of DoRA in {len(holders)} modules, but does not say use_dora"
    return [Check(NAME, "fault", fact("magnitudes", says, float(len(holders)), float(len(adapter.parts))), _RESTORE)]


def _scale(case: Case, adapter: Adapter) -> list[Check]:
    scales = {module: scale(adapter, module) for module in adapter.parts}
    dead = [module for module, value in scales.items() if value == 0]
    if dead:
        says = f"lora_alpha is 0 in {len(dead)} of {len(scales)} modules, so the scale of the update is lost"
        action = "restore the alpha used in training in adapter_config.json (some versions of verl saved 0)"
        return [Check(NAME, "fault", fact("scale", says, 0.0, 0.0), action)]
    if adapter.config.get("use_rslora") and max(scales.values(), default=0.0) > _LARGE_SCALE:
        rank, alpha = rank_and_alpha(adapter.config, max(scales, key=lambda module: scales[module]))
        says = f"rsLoRA scales by α/√r = {alpha / rank**0.5:.3g}, LoRA by α/r = {alpha / rank:.3g}"
        action = "choose alpha for α/√r, or divide the learning rate by √r, before comparing with LoRA"
        return [Check(NAME, "note", fact("scale", says, alpha / rank**0.5, _LARGE_SCALE), action)]
    return []


def _ranks(case: Case, adapter: Adapter) -> list[Check]:
    wrong = []
    for module, parts in adapter.parts.items():
        if "lora_A" not in parts or adapter.config.get("use_bdlora"):
            continue
        a, b = adapter.tensor(module, "lora_A"), adapter.tensor(module, "lora_B") if "lora_B" in parts else None
        rank = rank_and_alpha(adapter.config, module)[0]
        if b is not None and a.shape[0] == b.shape[1] and _is_stack(case, adapter, module) and a.shape[0] % rank == 0:
            continue  # r rows per expert
        if a.shape[0] != rank or (b is not None and b.ndim == 2 and b.shape[1] != rank):
            wrong.append((module, rank, int(a.shape[0])))
    if not wrong:
        return _patterns(adapter)
    module, rank, actual = wrong[0]
    says = (
        f"{len(wrong)} modules have a rank that differs from the configuration, first {module}: configured {rank}, "
        f"found {actual}"
    )
    return [Check(NAME, "fault", fact("rank", says, float(actual), float(rank)), _RESTORE)]


def _is_stack(case: Case, adapter: Adapter, module: str) -> bool:
    """Return whether a module holds ``target_parameters``: stacked experts, which are not a matrix of the base."""
    name = re.sub(r"(\.base_layer)+$", "", module)
    if case.base is not None and f"{name}.weight" in case.base.files:
        return False
    owners = [str(target).rpartition(".")[0] for target in adapter.config.get("target_parameters") or ()]
    return any(not owner or f".{name}".endswith(f".{owner}") for owner in owners)


def _incomplete(case: Case, adapter: Adapter) -> list[Check]:
    broken = unpaired(adapter)
    if not broken:
        return []
    lacking = "lora_A" if "lora_B" in adapter.parts[broken[0]] else "lora_B"
    count = f"{len(broken)} of {len(adapter.parts)} modules"
    says = f"a factor of B·A is missing in {count}, first {broken[0]}: no {lacking}"
    action = "save the adapter again: loaders silently keep the missing factor at its initialization"
    return [Check(NAME, "fault", fact("factors", says, float(len(broken)), 0.0), action)]


def _patterns(adapter: Adapter) -> list[Check]:
    unused = [
        pattern
        for key in ("rank_pattern", "alpha_pattern")
        for pattern in adapter.config.get(key) or {}
        if not any(by_pattern({pattern: True}, module, False) for module in adapter.parts)
    ]
    if not unused:
        return []
    says = f"{len(unused)} patterns of ranks or alphas match no module, first {unused[0]!r}"
    return [Check(NAME, "note", fact("patterns", says, float(len(unused)), 0.0), "check the spelling of the pattern")]


def _dead(case: Case, adapter: Adapter) -> list[Check]:
    factored = [module for module, parts in adapter.parts.items() if {"lora_A", "lora_B"} <= set(parts)]
    dead = [module for module in factored if _is_zero(adapter, module)]
    if not dead:
        return []
    share = len(dead) / len(factored)
    where = f"at step {case.snapshot.step}" if case.trained and case.snapshot is not None else "(step unknown)"
    says = f"B·A is exactly zero in {len(dead)} of {len(factored)} modules {where}, first {dead[0]}"
    if not case.trained:
        at_step_0 = case.run is not None and case.run.layout not in ("adapter", "checkpoint")
        action = (
            "" if at_step_0 else "unless this is the step-0 adapter, nothing was trained or saved: check the trainer"
        )
        return [Check(NAME, "ok" if at_step_0 else "note", fact("dead_modules", says, share, 1.0), action)]
    action = "check that the optimizer has these parameters and that their layers get a gradient"
    status = "fault" if share == 1.0 else "note"
    verdict = "not_learning" if share == 1.0 else None
    return [Check(NAME, status, fact("dead_modules", says, share, 1.0, 0.0), action, verdict)]  # type: ignore[arg-type]


def _is_zero(adapter: Adapter, module: str) -> bool:
    return any(not bool(adapter.tensor(module, part).double().any()) for part in ("lora_B", "lora_A"))


_RULES: tuple[Callable[[Case, Adapter], list[Check]], ...] = (
    _magnitudes,
    _incomplete,
    _scale,
    _ranks,
    _dead,
)
