r"""Tokenizer of the embedded base model: one token per character, and ``\boxed{`` as a single token."""

import string
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, EOS, UNK = "<pad>", "<eos>", "<unk>"
BOX = r"\boxed{"
VOCABULARY = (PAD, EOS, UNK, BOX, "}", *string.digits, *string.ascii_letters, *" \n+-*/=().,?:^")

# A user message is rendered as it is, so chat and plain prompts give the same tokens.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- message['content'] -}}"
    "{%- if message['role'] == 'assistant' -%}{{- eos_token -}}{%- endif -%}"
    "{%- endfor -%}"
)


def build_tokenizer() -> "PreTrainedTokenizerFast":
    """Return the tokenizer of the embedded base: 81 tokens, no start token, padding distinct from the end token.

    A character outside the vocabulary becomes ``<unk>``; ``decode`` returns all other text unchanged.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({token: index for index, token in enumerate(VOCABULARY)}, unk_token=UNK))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"\\boxed\{|[\s\S]"), "isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
