"""Facts about adapters that change no weights, or that mix other adapters depending on the input."""

from spectra.weights.facts.method import MethodFacts

_NO_UPDATE = "none: no weight changes"
_READ = "it trains virtual tokens in front of the input, and no weight changes"
_CACHE = "it trains keys and values of the attention cache, and no weight changes"
_TRAINED = "it trains prompts or cached keys and values, and no weight of the model"

PROMPTS = tuple(
    MethodFacts(
        peft_type.lower(),
        title,
        "prompts",
        peft_type,
        update=_NO_UPDATE,
        source=source,
        not_read=reason,
        not_trained=_TRAINED,
    )
    for peft_type, title, source, reason in (
        (
            "ADAPTION_PROMPT",
            "LLaMA-Adapter",
            "arXiv:2303.16199",
            "it trains prompts that gated attention adds in each layer, and no weight changes",
        ),
        ("CARTRIDGE", "Cartridges", "arXiv:2506.06266", _CACHE),
        ("CPT", "Context-aware prompt tuning", "arXiv:2410.17222", _READ),
        ("MULTITASK_PROMPT_TUNING", "Multitask prompt tuning", "arXiv:2303.02861", _READ),
        ("P_TUNING", "P-tuning", "arXiv:2103.10385", _READ),
        ("PREFIX_TUNING", "Prefix tuning", "arXiv:2101.00190", _CACHE),
        ("PROMPT_TUNING", "Prompt tuning", "arXiv:2104.08691", _READ),
    )
)

ROUTERS = (
    MethodFacts(
        "poly",
        "Polytropon",
        "networks",
        "POLY",
        update="none: a router mixes its factors by the task",
        source="arXiv:2202.13914",
        not_read="a router mixes its LoRA factors by the task that the input names, so there is no one matrix ΔW",
        not_trained="its router asks for a task id in every forward pass, which reinforcement learning does not give",
    ),
    MethodFacts(
        "xlora",
        "X-LoRA",
        "networks",
        "XLORA",
        update="none: a classifier mixes adapters for each token",
        source="arXiv:2402.07148",
        not_read="a classifier mixes LoRA adapters anew for each token, so there is no one matrix ΔW",
        not_trained="it mixes adapters that are already trained",
    ),
)
