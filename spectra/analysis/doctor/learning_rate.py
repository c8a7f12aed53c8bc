"""Whether the learning rate has the right scale for the method, and the update is visible in bfloat16.

The scaling rule is that of "LoRA without regret" (Thinking Machines 2025; ``hyperparam_utils`` of tinker-cookbook),
fitted on supervised runs: LR = 5·10⁻⁵ · M · (2000/H)^P with M = 10 for LoRA and 1 for full fine-tuning, H the hidden
size, P = 0.0775 for Qwen and 0.781 for Llama. For reinforcement learning it is only a guide, never a fault.
"""

from statistics import median

from spectra.analysis.doctor.case import Case
from spectra.analysis.doctor.diagnosis import fact, ok
from spectra.analysis.doctor.merge_drift import sample_rows
from spectra.analysis.verdict.findings import Check
from spectra.errors import SpectraError
from spectra.linalg.measures.rounding import round_to
from spectra.weights.readers.families.lora_options import moving_start, scale

NAME = "learning_rate"
_AT_2000, _HIDDEN = 5e-5, 2000.0
_LORA, _FULL = 10.0, 1.0
# Exponents by the family of the base, as its config.json calls it.
_EXPONENTS = {"qwen": 0.0775, "llama": 0.781}
# The rule comes from supervised runs: a rate within this factor below it is not reported.
_FAR = 10.0
# If an update changes less than this fraction of entries in bfloat16, the deployed model is the base.
_VISIBLE = 1e-3


def check(case: Case) -> list[Check]:
    """Compare the learning rate with the scaling rule, and the update with bfloat16 resolution."""
    return [*_rate(case), *_visible(case)]


def scaling_rule(hidden: int, family: str, *, full: bool) -> float | None:
    """Return the learning rate of the scaling rule, None for a family without a fitted exponent.

    >>> round(scaling_rule(1536, "qwen2", full=False), 6)
    0.00051
    >>> scaling_rule(1536, "gpt2", full=False) is None
    True
    """
    exponent = next((value for name, value in _EXPONENTS.items() if family.startswith(name)), None)
    return None if exponent is None else _AT_2000 * (_FULL if full else _LORA) * (_HIDDEN / hidden) ** exponent


def _rate(case: Case) -> list[Check]:
    rate, full = _used(case), case.snapshot is not None and case.snapshot.kind == "full"
    if rate is None or case.base is None or not (full or _plain_lora(case)):
        return []
    config = case.base.config
    hidden, family = config.get("hidden_size"), str(config.get("model_type", ""))
    if not isinstance(hidden, int) or hidden < 1:
        return []
    expected = scaling_rule(hidden, family, full=full)
    if expected is None:
        return []
    says = f"the learning rate is {rate:.2g}; the rule fitted on supervised runs gives {expected:.2g} for H = {hidden}"
    if rate * _FAR >= expected:
        return [ok(NAME, says, rate, expected / _FAR)]
    scales = "" if full or case.adapter is None else _scales(case)
    action = f"try {expected / 3:.1g} before ranking methods: far below it, the scale{scales} decides the ranking"
    return [Check(NAME, "note", fact("learning_rate", says, rate, expected / _FAR), action)]


def _plain_lora(case: Case) -> bool:
    """Return whether the rule applies: not to PiSSA, whose factors start as large as the base's top directions."""
    return case.config.get("peft_type") == "LORA" and moving_start(case.config) is None


def _scales(case: Case) -> str:
    assert case.adapter is not None
    return f" α/r (here s = {median(scale(case.adapter, module) for module in case.adapter.parts):.3g})"


def _used(case: Case) -> float | None:
    """Return the largest learning rate of the run, from its recipe or its log."""
    optimizer = case.recipe.get("optimizer")
    rate = optimizer.get("learning_rate") if isinstance(optimizer, dict) else None
    if isinstance(rate, int | float) and not isinstance(rate, bool):
        return float(rate)
    logged = case.series["learning_rate"].dropna() if "learning_rate" in case.series else None
    return float(logged.max()) if logged is not None and len(logged) else None


def _visible(case: Case) -> list[Check]:
    """Count the entries that the newest update changes in bfloat16."""
    if case.changes is None or not case.sample or not case.trained or not case.finite:
        return []
    try:
        shares = [_share(case, module) for module in case.sample]
    except SpectraError:
        return []
    share = median(shares)
    says = f"the update changes {share:.2%} of the bfloat16 weights (median of {len(shares)} matrices)"
    if share >= _VISIBLE:
        return [ok("visible_in_bf16", says, share, _VISIBLE)]
    action = "raise the learning rate, or serve the adapter unmerged: merged in bfloat16 it equals the base model"
    return [Check("visible_in_bf16", "note", fact("visible_in_bf16", says, share, _VISIBLE), action)]


def _share(case: Case, module: str) -> float:
    weight = case.weight(module).double()
    rows = sample_rows(weight.shape[0], weight.shape[1])
    change = case.update(module).dense()[rows]
    return float((round_to(weight[rows]) != round_to(weight[rows] + change)).double().mean())
