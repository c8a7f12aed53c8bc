"""Trainable tokens: rows of the embedding."""

from typing import Any

from pydantic import Field

from spectra.config import Section
from spectra.training.methods.method import Method, RunContext
from spectra.training.methods.recipe_section import MethodRecipe
from spectra.training.methods.shapes import each
from spectra.weights.facts import FACTS


class TokenOptions(Section):
    """Options of trainable tokens.

    Attributes
    ----------
    token_indices
        Rows of the embedding that train; null takes all.
    """

    token_indices: list[int] | None = Field(default=None, min_length=1)


def _token_config(recipe: MethodRecipe, context: RunContext) -> Any:
    from peft import TrainableTokensConfig

    given = recipe.options["token_indices"]
    vocabulary = min(shape[0] for shape in context.shapes.values())
    return TrainableTokensConfig(
        target_modules=recipe.target_modules,
        token_indices=list(range(vocabulary)) if given is None else given,
        task_type="CAUSAL_LM",
    )


def _token_size(recipe: MethodRecipe, vocabulary: int, features: int) -> int:
    given = recipe.options["token_indices"]
    return (vocabulary if given is None else len(given)) * features


METHODS = (
    Method(
        FACTS["trainable_tokens"],
        trains="rows of the embedding",
        defaults={"target_modules": ["embed_tokens"]},
        options=TokenOptions,
        config=_token_config,
        targets="embedding",
        size=each(_token_size),
        learning_rate=1e-4,
    ),
)
