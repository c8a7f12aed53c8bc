"""Methods whose modules share random frozen tensors or trained vectors."""

from math import ceil

from pydantic import Field

from spectra.config import Section
from spectra.training.methods.method import TARGETS, Method, Peft
from spectra.training.methods.recipe_section import MethodRecipe
from spectra.training.methods.shapes import AtMost, Divides, Shapes, each, number_of, rank
from spectra.weights.facts import FACTS


class VeraOptions(Section):
    """Options of VeRA.

    Attributes
    ----------
    d_initial
        Initial value of d.
    """

    d_initial: float = Field(default=0.1, gt=0)


class VbloraOptions(Section):
    """Options of VB-LoRA.

    Attributes
    ----------
    num_vectors
        Vectors in the bank that all modules share.
    vector_length
        Their length; must divide both sides of every target.
    topk
        Vectors mixed for each piece of A and B.
    """

    num_vectors: int = Field(default=64, ge=2)
    vector_length: int = Field(default=64, ge=1)
    topk: int = Field(default=2, ge=1)


def _vblora_size(recipe: MethodRecipe, shapes: Shapes) -> int:
    count, length = number_of(recipe, "options.num_vectors"), number_of(recipe, "options.vector_length")
    pieces = sum(out // length + inner // length for out, inner in shapes.values())
    return count * length + rank(recipe) * count * pieces


class UniloraOptions(Section):
    """Options of Uni-LoRA.

    Attributes
    ----------
    theta_d_length
        Length of the vector from which all modules read their A and B.
    """

    theta_d_length: int = Field(default=256, ge=1)


def _randlora_size(recipe: MethodRecipe, out: int, inner: int) -> int:
    bases = ceil(min(out, inner) / rank(recipe))
    return bases * (rank(recipe) + min(out, inner))


def _unilora_size(recipe: MethodRecipe, shapes: Shapes) -> int:
    return number_of(recipe, "options.theta_d_length")


METHODS = (
    Method(
        FACTS["vera"],
        trains="b (out,) and d (r,) of each target module; A and B are random, frozen and shared",
        defaults={**TARGETS, "r": 64, "dropout": 0.0},
        options=VeraOptions,
        config=Peft("VeraConfig", {"r": "r", "dropout": "vera_dropout"}, seed="projection_prng_key"),
        size=each(lambda recipe, out, inner: out + rank(recipe)),
        learning_rate=1e-2,
        notes=("needs about ten times LoRA's learning rate; at LoRA's it hardly learns",),
    ),
    Method(
        FACTS["pvera"],
        trains="b (out,) and d (2r,) of each target module, d for mean and variance of a random adapter",
        defaults={**TARGETS, "r": 64, "dropout": 0.0},
        options=VeraOptions,
        config=Peft("PveraConfig", {"r": "r", "dropout": "pvera_dropout"}, seed="projection_prng_key"),
        size=each(lambda recipe, out, inner: out + 2 * rank(recipe)),
        learning_rate=1e-2,
        notes=("the forward pass samples while training, so gradients are those of a noisy policy",),
    ),
    Method(
        FACTS["randlora"],
        trains="λ (r, n) and γ (n, min(out, in)) of each target module, n = min(out, in)/r; A and B random and shared",
        defaults={**TARGETS, "r": 8, "alpha": 160.0, "dropout": 0.0},
        config=Peft(
            "RandLoraConfig",
            {"r": "r", "alpha": "randlora_alpha", "dropout": "randlora_dropout"},
            seed="projection_prng_key",
        ),
        rules=(AtMost("r"),),
        size=each(_randlora_size),
        notes=("a snapshot has the shared A and B once; peft reports the copies per module as missing",),
    ),
    Method(
        FACTS["vblora"],
        trains="a vector bank that all modules share, and the logits that mix A and B from it",
        defaults={**TARGETS, "r": 4, "dropout": 0.0},
        options=VbloraOptions,
        config=Peft("VBLoRAConfig", {"r": "r", "dropout": "vblora_dropout"}),
        rules=(Divides("options.vector_length"),),
        size=_vblora_size,
        learning_rate=1e-2,
        notes=("ΔW is not 0 at step 0: bank and logits are initialized at random",),
    ),
    Method(
        FACTS["unilora"],
        trains="one vector θ that all modules share",
        defaults={**TARGETS, "r": 4, "dropout": 0.0},
        options=UniloraOptions,
        config=Peft(
            "UniLoraConfig", {"r": "r", "dropout": "unilora_dropout"}, seed="proj_seed", fixed={"save_indices": True}
        ),
        size=_unilora_size,
        learning_rate=1e-1,
        notes=("ΔW is not 0 at step 0: θ is initialized at random",),
    ),
)
