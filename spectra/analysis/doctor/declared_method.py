"""Whether the adapter matches the method that the run declares.

In a published pipeline, the dispatcher ignored the name of the method: recipes said DoRA, the files were plain LoRA,
and the results were read as those of DoRA.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spectra.analysis.doctor.case import Case
from spectra.analysis.doctor.diagnosis import fact, ok
from spectra.analysis.verdict.findings import Check
from spectra.runs.directory import read_mapping
from spectra.runs.layout import RunLayout

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
# Types of adapters that one method alone writes, by the method's name in a recipe.
_TYPES: Mapping[str, str] = {
    **dict.fromkeys(("lora", "rank1", "rslora", "dora", "pissa", "milora", "milora_plus"), "LORA"),
    **dict.fromkeys(("lora_plus", "lora_fa", "olora", "corda", "eva", "mica", "loftq"), "LORA"),
    "adalora": "ADALORA",
    "miss": "MISS",
    "vera": "VERA",
    "ia3": "IA3",
    "layernorm": "LN_TUNING",
    "ln_tuning": "LN_TUNING",
    "loha": "LOHA",
    "lokr": "LOKR",
    "oft": "OFT",
    "boft": "BOFT",
    "hra": "HRA",
    "fourierft": "FOURIERFT",
}
_STARTS = ("pissa", "olora", "corda", "loftq", "mica")
# Methods whose snapshots in our runs are the equal LoRA of twice the rank on the original base.
_STACKED = ("milora", "corda")
_WORDS = {"dora": "use_dora", "rslora": "use_rslora"}
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
        The method's name.
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
    def is_family(self) -> bool:
        """Whether the name is of the family, and not of one method in it."""
        return self.keys[-1] in _FAMILY_KEYS and self.method == "lora"


def check(case: Case) -> list[Check]:
    """Compare the method in the run's configuration, manifest or name with the configuration of the adapter."""
    if case.adapter is None:
        return _adapter_or_full(case)
    declared = _declared(case)
    if declared is None:
        return _by_name(case)
    wrong = [*_method(declared, case.config), *_numbers(declared, case)]
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
    if declared is None or case.snapshot is None or declared.method not in _TYPES:
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
                return _Declared(name, _plain(method), section, keys)
    manifest = None if case.run is None else case.run.manifest
    return None if manifest is None else _Declared("manifest.json", _plain(manifest.method), {})


def _plain(method: str) -> str:
    return method.lower().replace("-", "_").replace("+", "_plus")


def _method(declared: _Declared, config: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    method = declared.method
    kind, expected = str(config.get("peft_type")), _TYPES.get(method)
    if expected is None:
        return []
    if kind != expected:
        return [("peft_type", f"method {method}", f"is of type {kind}")]
    if kind != "LORA":
        return []
    if declared.is_family:
        return [
            ("method", f"{option} {str(said).lower()}", _sets(config, option))
            for option in _WORDS.values()
            if isinstance(said := declared.section.get(option), bool) and said != bool(config.get(option))
        ]
    wrong = [
        ("method", f"method {method}", _sets(config, option))
        for word, option in _WORDS.items()
        if bool(config.get(option)) != (method == word)
    ]
    start = str(config.get("init_lora_weights", True)).lower()
    named = next((name for name in _STARTS if method == name and name not in _STACKED), None)
    if named is not None and not start.startswith(named):
        wrong.append(("method", f"method {method}", f"began with init_lora_weights {start}"))
    return wrong


def _sets(config: Mapping[str, Any], option: str) -> str:
    return f"{'sets' if config.get(option) else 'does not set'} {option}"


def _numbers(declared: _Declared, case: Case) -> list[tuple[str, str, str]]:
    own = RunLayout(case.root).manifest.exists()
    factor = 2 if own and declared.method in _STACKED else 1
    # At the top of a file ``rank`` is that of a process among those that train.
    ranks = ("r", "lora_r", "rank") if declared.keys[0] in ("peft", "method") else ("r", "lora_r")
    wrong = []
    for names, held in ((ranks, "r"), (("alpha", "lora_alpha"), "lora_alpha")):
        said = next((declared.section[name] for name in names if _is_positive(declared.section.get(name))), None)
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
