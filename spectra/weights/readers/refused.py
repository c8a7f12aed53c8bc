"""Methods of peft that leave no update of the base weights to analyse, each with the reason.

Every other ``peft_type`` of peft 0.21 has a reader in this package.
"""

from collections.abc import Mapping

_PROMPT = "it trains virtual tokens in front of the input, and no weight changes"

REFUSED: Mapping[str, str] = {
    "ADAPTION_PROMPT": "it trains prompts that gated attention adds in each layer, and no weight changes",
    "CARTRIDGE": "it trains keys and values of the attention cache, and no weight changes",
    "CPT": _PROMPT,
    "LILY": "a router mixes its B matrices anew for each input, so there is no one matrix ΔW",
    "MULTITASK_PROMPT_TUNING": _PROMPT,
    "POLY": "a router mixes its LoRA factors by the task that the input names, so there is no one matrix ΔW",
    "PREFIX_TUNING": "it trains keys and values of the attention cache, and no weight changes",
    "PROMPT_TUNING": _PROMPT,
    "P_TUNING": _PROMPT,
    "SHADOW": "a second network corrects the hidden states of each input, and no weight changes",
    "XLORA": "a classifier mixes LoRA adapters anew for each token, so there is no one matrix ΔW",
}
