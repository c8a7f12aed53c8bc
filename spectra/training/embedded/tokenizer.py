r"""The base's tokenizer: one character a token, and ``\boxed{`` as a single one."""

import string
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, EOS, UNK = "<pad>", "<eos>", "<unk>"
BOX = r"\boxed{"
VOCABULARY = (PAD, EOS, UNK, BOX, "}", *string.digits, *string.ascii_letters, *" \n+-*/=().,?:^")

# A user's message is the prompt itself, so chat and plain prompts give the model the very same tokens.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- message['content'] -}}"
    "{%- if message['role'] == 'assistant' -%}{{- eos_token -}}{%- endif -%}"
    "{%- endfor -%}"
)


def build_tokenizer() -> "PreTrainedTokenizerFast":
    """Return the tokenizer of the embedded base: 81 tokens, no beginning-of-sequence token, padding apart from the end.

    A character outside the vocabulary becomes ``<unk>``; every other text comes back from ``decode`` unchanged.
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
