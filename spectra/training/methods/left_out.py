"""What peft has and spectra does not train, with the reason. Every peft type is trainable or here."""

from collections.abc import Mapping

_PROMPT = "it trains prompts or cached keys and values, and no weight of the model"

# By peft type in lower case.
TYPES: Mapping[str, str] = {
    "adaption_prompt": _PROMPT,
    "cartridge": _PROMPT,
    "cpt": _PROMPT,
    "multitask_prompt_tuning": _PROMPT,
    "p_tuning": _PROMPT,
    "prefix_tuning": _PROMPT,
    "prompt_tuning": _PROMPT,
    "poly": "its router asks for a task id in every forward pass, which reinforcement learning does not give",
    "xlora": "it mixes adapters that are already trained",
}

# Variants and initialisations of LoRA, by the option of peft's LoraConfig or the value of init_lora_weights.
VARIANTS: Mapping[str, str] = {
    "alora_invocation_tokens": "it acts only after an invocation sequence, so that there is no one ΔW",
    "arrow_config": "it routes among adapters that are already trained",
    "kasa_config": "it truncates the base, so step 0 is another model; its penalty joins only the model's own loss",
    "lora_ga": "it starts from gradients of a supervised loss, which a task with rewards does not have",
    "loftq": "it starts from the error of a quantised base, and spectra trains bases that are not",
    "monteclora_config": "it samples its factors, and its divergence joins only the model's own loss",
    "use_bdlora": "its blocks follow a layout of devices that a recipe does not know; ΔW is LoRA's with zeros",
    "use_qalora": "it pools inputs to suit a quantised base, and spectra trains bases that are not",
    "velora_config": "it compresses activations to save memory; ΔW is LoRA's",
}

LEFT_OUT: Mapping[str, str] = {**TYPES, **VARIANTS}
