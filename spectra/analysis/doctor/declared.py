"""Whether the adapter is what the run says it trained.

A recipe that says DoRA over files that are plain LoRA is known from a published pipeline whose dispatcher ignored the
method's name: its results were read as DoRA's.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from spectra.analysis.doctor.case import Case
from spectra.analysis.doctor.diagnosis import fact, ok
from spectra.analysis.findings import Check
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


def check(case: Case) -> list[Check]:
    """Compare what the run's configuration, manifest or name says with the adapter's own configuration."""
    if case.adapter is None:
        return _adapter_or_full(case)
    declared = _declared(case)
    if declared is None:
        return _by_name(case)
    source, method, section = declared
    wrong = [*_method(method, case.config), *_numbers(method, section, case)]
    if not wrong:
        return [ok(NAME, f"the adapter is what {source} says: {method}")]
    return [
        Check(
            NAME,
            "fault",
            fact(metric, f"{source} says {said}, the adapter {held}"),
            "do not read this run as that method: train it again, and look at how the trainer chooses its method",
        )
        for metric, said, held in wrong
    ]


def _adapter_or_full(case: Case) -> list[Check]:
    declared = _declared(case)
    if declared is None or case.snapshot is None or declared[1] == "full" or declared[1] not in _TYPES:
        return []
    says = f"{declared[0]} says {declared[1]}, and the snapshots are whole weights"
    return [
        Check(NAME, "note", fact("method", says), "analyse the adapter where there is one: whole weights are rounded")
    ]


def _declared(case: Case) -> tuple[str, str, Mapping[str, Any]] | None:
    """Return which file names a method, the method, and the section that it stands in."""
    for name in _FILES:
        value = _read(case.root / name)
        for keys in _KEYS:
            section: Any = value
            for key in keys[:-1]:
                section = section.get(key) if isinstance(section, Mapping) else None
            method = section.get(keys[-1]) if isinstance(section, Mapping) else None
            if isinstance(method, str):
                return name, _plain(method), section
    manifest = None if case.run is None else case.run.manifest
    return None if manifest is None else ("manifest.json", _plain(manifest.method), {})


def _read(file: Path) -> Any:
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None


def _plain(method: str) -> str:
    return method.lower().replace("-", "_").replace("+", "_plus")


def _method(method: str, config: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    kind, expected = str(config.get("peft_type")), _TYPES.get(method)
    if expected is None:
        return []
    if kind != expected:
        return [("peft_type", f"method {method}", f"is of type {kind}")]
    if kind != "LORA":
        return []
    wrong = [
        ("method", f"method {method}", f"{'sets' if config.get(option) else 'does not set'} {option}")
        for word, option in _WORDS.items()
        if bool(config.get(option)) != (method == word)
    ]
    start = str(config.get("init_lora_weights", True)).lower()
    named = next((name for name in _STARTS if method == name and name not in _STACKED), None)
    if named is not None and not start.startswith(named):
        wrong.append(("method", f"method {method}", f"began with init_lora_weights {start}"))
    return wrong


def _numbers(method: str, section: Mapping[str, Any], case: Case) -> list[tuple[str, str, str]]:
    own = RunLayout(case.root).manifest.exists()
    factor = 2 if own and method in _STACKED else 1
    wrong = []
    for names, held in ((("r", "lora_r", "rank"), "r"), (("alpha", "lora_alpha"), "lora_alpha")):
        said = next((section[name] for name in names if isinstance(section.get(name), int | float)), None)
        actual = case.config.get(held)
        if said is not None and isinstance(actual, int | float) and float(actual) != factor * float(said):
            times = f" (times {factor})" if factor > 1 else ""
            wrong.append((held, f"{held} {said:g}{times}", f"has {actual:g}"))
    return wrong


def _by_name(case: Case) -> list[Check]:
    """Look at the name of the directory: the only word that many pipelines leave."""
    words = set(re.split(r"[^a-z0-9]+", case.root.resolve().name.lower()))
    wrong = [(word, option) for word, option in _WORDS.items() if word in words and not case.config.get(option)]
    if not wrong or case.config.get("peft_type") != "LORA":
        return []
    word, option = wrong[0]
    says = f"the directory is called {case.root.name}, and its adapter does not set {option}"
    action = f"make sure that {word} was trained before reading it as {word}"
    return [Check(NAME, "note", fact("method", says), action)]
