"""Methods that scale the entries of W."""

from typing import Any, Literal

from pydantic import Field

from spectra.config import Section
from spectra.training.methods.method import RANKED, Method, Peft, RunContext
from spectra.training.methods.recipe_section import MethodRecipe
from spectra.training.methods.shapes import Shapes, each, rank
from spectra.weights.facts import FACTS


class Ia3Options(Section):
    """Options of IA³.

    Attributes
    ----------
    feedforward_modules
        Targets whose inputs are scaled instead of their outputs; names that are not targets are ignored.
    """

    feedforward_modules: list[str] = Field(default_factory=lambda: ["down_proj"])


def _feedforward(recipe: MethodRecipe) -> list[str]:
    return [name for name in recipe.options["feedforward_modules"] if name in (recipe.target_modules or [])]


def _ia3_config(recipe: MethodRecipe, context: RunContext) -> Any:
    from peft import IA3Config

    return IA3Config(
        target_modules=recipe.target_modules, feedforward_modules=_feedforward(recipe), task_type="CAUSAL_LM"
    )


def _ia3_size(recipe: MethodRecipe, shapes: Shapes) -> int:
    scaled = tuple(_feedforward(recipe))
    return sum(shape[1] if name.endswith(scaled) else shape[0] for name, shape in shapes.items())


class GloraOptions(Section):
    """Options of GLoRA.

    Attributes
    ----------
    config_A_B
        Form of the paths A and B.
    """

    config_A_B: Literal["lora", "vector", "constant"] = "lora"


class DeloraOptions(Section):
    """Options of DeLoRA.

    Attributes
    ----------
    delora_lambda
        Initial value of the trained norm of the update.
    """

    delora_lambda: float = Field(default=0.5, gt=0)


def _glora_size(recipe: MethodRecipe, out: int, inner: int) -> int:
    path = {"lora": rank(recipe) * (out + inner), "vector": out, "constant": 1}
    return 2 * path[str(recipe.options["config_A_B"])]


METHODS = (
    Method(
        FACTS["ia3"],
        trains="a scale l for the outputs of each target module, or for the inputs of a feedforward one",
        defaults={"target_modules": ["k_proj", "v_proj", "down_proj"]},
        options=Ia3Options,
        config=_ia3_config,
        size=_ia3_size,
        learning_rate=1e-2,
        notes=("needs about ten times LoRA's learning rate",),
    ),
    Method(
        FACTS["hira"],
        trains="A (r, in) and B (out, r) of each target module",
        defaults={**RANKED, "dropout": 0.0},
        config=Peft("HiraConfig", {"r": "r", "dropout": "hira_dropout"}),
        size=each(lambda recipe, out, inner: rank(recipe) * (out + inner)),
        learning_rate=1e-2,
        notes=("there is no scale, and W_0's entries are small: it needs a larger learning rate than LoRA",),
    ),
    Method(
        FACTS["glora"],
        trains="paths A and B of each target module; where the base has biases, paths to them too",
        defaults=RANKED,
        options=GloraOptions,
        config=Peft("GloraConfig", {"r": "r"}),
        size=each(_glora_size),
    ),
    Method(
        FACTS["delora"],
        trains="A (r, in), B (out, r) and the norm λ of each target module",
        defaults=RANKED,
        options=DeloraOptions,
        config=Peft("DeloraConfig", {"r": "r"}),
        size=each(lambda recipe, out, inner: rank(recipe) * (out + inner) + 1),
        learning_rate=1e-2,
        notes=(
            "B is normalized: the first step, however small, gives an update of norm λ; peft's default of 15 destroys "
            "the base that ships with spectra at any learning rate",
        ),
    ),
)
