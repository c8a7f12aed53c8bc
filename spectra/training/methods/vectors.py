"""Methods that train everything, or only vectors: norms, scales, biases, tokens."""

from typing import Any

from pydantic import Field

from spectra.config import Section
from spectra.training.methods.method import NORM_MODULES, Method, Peft, Setting
from spectra.training.methods.section import MethodRecipe
from spectra.training.methods.shapes import Shapes, each


class Ia3Options(Section):
    """Options of IA³.

    Attributes
    ----------
    feedforward_modules
        Targets whose inputs are scaled in place of their outputs; names that are no targets do nothing.
    """

    feedforward_modules: list[str] = Field(default_factory=lambda: ["down_proj"])


def _feedforward(recipe: MethodRecipe) -> list[str]:
    return [name for name in recipe.options["feedforward_modules"] if name in (recipe.target_modules or [])]


def _ia3_config(recipe: MethodRecipe, setting: Setting) -> Any:
    from peft import IA3Config

    return IA3Config(
        target_modules=recipe.target_modules, feedforward_modules=_feedforward(recipe), task_type="CAUSAL_LM"
    )


def _ia3_size(recipe: MethodRecipe, shapes: Shapes) -> int:
    scaled = tuple(_feedforward(recipe))
    return sum(shape[1] if name.endswith(scaled) else shape[0] for name, shape in shapes.items())


class TokenOptions(Section):
    """Options of trainable tokens.

    Attributes
    ----------
    token_indices
        Rows of the embedding that train; null takes all.
    """

    token_indices: list[int] | None = Field(default=None, min_length=1)


def _token_config(recipe: MethodRecipe, setting: Setting) -> Any:
    from peft import TrainableTokensConfig

    given = recipe.options["token_indices"]
    vocabulary = min(shape[0] for shape in setting.shapes.values())
    return TrainableTokensConfig(
        target_modules=recipe.target_modules,
        token_indices=list(range(vocabulary)) if given is None else given,
        task_type="CAUSAL_LM",
    )


def _token_size(recipe: MethodRecipe, vocabulary: int, features: int) -> int:
    given = recipe.options["token_indices"]
    return (vocabulary if given is None else len(given)) * features


FULL = Method(
    name="full",
    title="Full fine-tuning",
    aliases=("full_finetuning", "fft"),
    trains="every parameter of the base",
    update="W_t − W_0",
    source="the reference that the others are compared with",
    learning_rate=1e-4,
    notes=("needs about a tenth of LoRA's learning rate",),
)

LAYERNORM = Method(
    name="layernorm",
    title="LayerNorm tuning",
    peft_type="LN_TUNING",
    aliases=("ln_tuning", "ln"),
    trains="the weight g of every norm",
    update="g_t − g_0 of the norms; every matrix stays, ΔW = 0",
    source="Zhao et al. 2023, arXiv:2312.11420",
    defaults={"target_modules": NORM_MODULES},
    config=Peft("LNTuningConfig"),
    targets="norm",
    size=each(lambda recipe, features, _: features),
    learning_rate=1e-2,
    notes=("needs about ten times LoRA's learning rate",),
)

IA3 = Method(
    name="ia3",
    title="IA³",
    peft_type="IA3",
    aliases=("(ia)3",),
    trains="a scale l for the outputs of each target module, or for the inputs of a feedforward one",
    update="(l − 1) ⊙ W_0 along rows, or along columns",
    source="Liu et al. 2022, arXiv:2205.05638",
    defaults={"target_modules": ["k_proj", "v_proj", "down_proj"]},
    options=Ia3Options,
    config=_ia3_config,
    size=_ia3_size,
    learning_rate=1e-2,
    notes=("needs about ten times LoRA's learning rate",),
)

BEFT = Method(
    name="beft",
    title="BEFT",
    peft_type="BEFT",
    trains="a bias (out,) of each target module",
    update="added to the output; every matrix stays, ΔW = 0",
    source="arXiv:2509.15974",
    defaults={"target_modules": ["v_proj"]},
    config=Peft("BeftConfig"),
    size=each(lambda recipe, out, inner: out),
    learning_rate=1e-2,
    notes=("on a layer without bias it adds one, and cannot be merged",),
)

TOKENS = Method(
    name="trainable_tokens",
    title="Trainable tokens",
    peft_type="TRAINABLE_TOKENS",
    trains="rows of the embedding",
    update="rows as trained − rows of W_0, of the embedding",
    source="peft",
    defaults={"target_modules": ["embed_tokens"]},
    options=TokenOptions,
    config=_token_config,
    targets="embedding",
    size=each(_token_size),
    learning_rate=1e-4,
)

METHODS = (FULL, LAYERNORM, IA3, BEFT, TOKENS)
