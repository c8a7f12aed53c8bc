"""Whether the adapter matches the method that the run declares.

In a published pipeline, the dispatcher ignored the name of the method: recipes said DoRA, the files were plain LoRA,
and the results were read as those of DoRA.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spectra.analysis.doctor.case import Case
from spectra.analysis.doctor.diagnosis import fact, ok, skipped
from spectra.analysis.verdict.findings import Check
from spectra.runs.directory import read_mapping
from spectra.runs.layout import RunLayout
from spectra.weights.facts import FACTS, MethodFacts, find_facts, find_initialization, initialization_value, plain

NAME = "method"
# What else a pipeline may call its configuration, beside the run's snapshots.
_FILES = ("recipe.yaml", "config.yaml", "training_config.yaml", "args.yaml", "args.json", "config_used.json")
# Where they keep the name of the method.
_KEYS = (
    ("method", "name"),
    ("peft", "type"),
    ("peft", "method"),
    ("peft_method",),
    ("peft_type",),
    ("finetuning_type",),
)
# Options of LoRA that make another method of it.
_OPTIONS = tuple(one.option for one in FACTS.values() if one.option is not None)
# Methods that a directory's name promises, with the option that they set.
_WORDS = {name: str(FACTS[name].option) for name in ("dora", "rslora")}
# Keys that name the family of an adapter: "lora" there is any LoRA, and options beside it say which.
_FAMILY_KEYS = ("peft_type", "finetuning_type")


@dataclass(frozen=True)
class _Declared:
    """What a run's configuration says of its method.

    Attributes
    ----------
    source
        The file.
    method
        The method's name, as it is written there.
    section
        The section that it stands in.
    keys
        Where in the file.
    """

    source: str
    method: str
    section: Mapping[str, Any]
    keys: tuple[str, ...] = ("method",)

    @property
    def facts(self) -> MethodFacts | None:
        """What holds of the method; None where spectra knows no method of that name."""
        return find_facts(self.method)

    @property
    def is_family(self) -> bool:
        """Whether the name is of the family, and not of one method in it."""
        return self.keys[-1] in _FAMILY_KEYS and plain(self.method) == "lora"


def check(case: Case) -> list[Check]:
    """Compare the method in the run's configuration, manifest or name with the configuration of the adapter."""
    if case.adapter is None:
        return _adapter_or_full(case)
    declared = _declared(case)
    if declared is None:
        return _by_name(case)
    facts = declared.facts
    wrong = [*([] if facts is None else _method(declared, facts, case.config)), *_numbers(declared, case)]
    if not wrong and facts is None:
        says = f"{declared.source} says {declared.method!r}, which is no method that spectra knows: not compared"
        return [skipped(NAME, says, "compare it with adapter_config.json by hand")]
    if not wrong:
        return [ok(NAME, f"the adapter is what {declared.source} says: {declared.method}")]
    return [
        Check(
            NAME,
            "fault",
            fact(metric, f"{declared.source} says {said}, the adapter {held}"),
            "do not report this run as that method: train it again, and check how the trainer selects the method",
        )
        for metric, said, held in wrong
    ]


def _adapter_or_full(case: Case) -> list[Check]:
    declared = _declared(case)
    if declared is None or case.snapshot is None or declared.facts is None or declared.facts.peft_type is None:
        return []
    says = f"{declared.source} says {declared.method}, and the snapshots are full weights"
    return [Check(NAME, "note", fact("method", says), "analyze the adapter if there is one: full weights are rounded")]


def _declared(case: Case) -> _Declared | None:
    """Return what the first file that names a method says of it."""
    for name in _FILES:
        value = read_mapping(case.root / name)
        for keys in _KEYS:
            section: Any = value
            for key in keys[:-1]:
                section = section.get(key) if isinstance(section, Mapping) else None
            method = section.get(keys[-1]) if isinstance(section, Mapping) else None
            if isinstance(method, str):
                return _Declared(name, method, section, keys)
    manifest = None if case.run is None else case.run.manifest
    return None if manifest is None else _Declared("manifest.json", manifest.method, {})


def _method(declared: _Declared, facts: MethodFacts, config: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    method, kind = declared.method, str(config.get("peft_type"))
    if kind != facts.peft_type and find_facts(kind) is not facts:
        return [("peft_type", f"method {method}", f"is of type {kind}")]
    if kind != "LORA":
        return []
    return [*_options(declared, facts, config), *_initialization(declared, facts, config)]


def _options(declared: _Declared, facts: MethodFacts, config: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    wrong = []
    for option in _OPTIONS:
        given = declared.section.get(option)
        if declared.is_family:
            expected = given if isinstance(given, bool) else bool(config.get(option))
            said = f"{option} {str(given).lower()}"
        else:
            expected = option == facts.option or bool(given)
            said = f"method {declared.method}"
        if expected != bool(config.get(option)):
            wrong.append(("method", said, _sets(config, option)))
    return wrong


def _initialization(declared: _Declared, facts: MethodFacts, config: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Compare how the factors began; what the section says beside the method's name may say it too."""
    value = initialization_value(config)
    found = find_initialization(value)
    if facts.initialization is not None:
        right = value.startswith(facts.initialization)
    elif declared.is_family or found is None or not found.moves_base:
        right = True
    else:
        written = f"{facts.name} {declared.section}".lower()
        right = value in written or str(found.label) in written
    return [] if right else [("method", f"method {declared.method}", f"began with init_lora_weights {value}")]


def _sets(config: Mapping[str, Any], option: str) -> str:
    return f"{'sets' if config.get(option) else 'does not set'} {option}"


def _numbers(declared: _Declared, case: Case) -> list[tuple[str, str, str]]:
    own, facts = RunLayout(case.root).manifest.exists(), declared.facts
    factor = 2 if own and facts is not None and facts.saved_as_lora else 1
    # What a method has whatever its section says.
    fixed = {"r": None if facts is None else facts.rank}
    # At the top of a file ``rank`` is that of a process among those that train.
    ranks = ("r", "lora_r", "rank") if declared.keys[0] in ("peft", "method") else ("r", "lora_r")
    wrong = []
    for names, held in ((ranks, "r"), (("alpha", "lora_alpha"), "lora_alpha")):
        given = (declared.section[name] for name in names if _is_positive(declared.section.get(name)))
        said = next(given, fixed.get(held))
        actual = case.config.get(held)
        if said is not None and isinstance(actual, int | float) and float(actual) != factor * float(said):
            times = f" (times {factor})" if factor > 1 else ""
            wrong.append((held, f"{held} {said:g}{times}", f"has {actual:g}"))
    return wrong


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _by_name(case: Case) -> list[Check]:
    """Check the name of the directory: often the only trace of the method."""
    words = set(re.split(r"[^a-z0-9]+", case.root.resolve().name.lower()))
    wrong = [(word, option) for word, option in _WORDS.items() if word in words and not case.config.get(option)]
    if not wrong or case.config.get("peft_type") != "LORA":
        return []
    word, option = wrong[0]
    says = f"the directory is called {case.root.name}, and its adapter does not set {option}"
    action = f"verify that {word} was trained before you report it as {word}"
    return [Check(NAME, "note", fact("method", says), action)]
