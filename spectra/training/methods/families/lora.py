"""LoRA and its variants: ΔW = s·B·A, or s·(B·A − B₀·A₀) if the initialization moves the base."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import Field

from spectra.config import Section
from spectra.training.methods import initializations, optimizers
from spectra.training.methods.method import LINEAR_MODULES, Method, RunContext
from spectra.training.methods.recipe_section import MethodRecipe
from spectra.training.methods.shapes import AtMost, each, rank
from spectra.weights.facts import FACTS

RESIDUAL_BETA = "beta must be 0: without the adapter the model is the residual base, not the reference"
LORA_DEFAULTS: Mapping[str, Any] = {"r": 8, "alpha": 16.0, "dropout": 0.0, "target_modules": LINEAR_MODULES}


class LoraOptions(Section):
    """Options of LoRA and its variants.

    Attributes
    ----------
    init
        Distribution of A₀: ``kaiming`` uniform as in the LoRA code, ``gaussian`` with variance 1/r², or ``orthogonal``:
        A₀ and B₀ from one orthogonal matrix, both not zero, with B₀·A₀ = 0.
    """

    init: Literal["kaiming", "gaussian", "orthogonal"] = "kaiming"


class DoraOptions(Section):
    """Options of DoRA.

    Attributes
    ----------
    init
        Distribution of A₀, as in LoRA.
    """

    init: Literal["kaiming", "gaussian"] = "kaiming"


class LoraPlusOptions(LoraOptions):
    """Options of LoRA+.

    Attributes
    ----------
    ratio
        Learning rate of B over that of A.
    """

    ratio: float = Field(default=16.0, ge=1)


class PissaOptions(Section):
    """Options of PiSSA.

    Attributes
    ----------
    niter
        Power iterations of a randomized SVD, seeded by the run, instead of the exact one: peft's ``pissa_niter_N``.
        None takes the exact SVD.
    """

    niter: int | None = Field(default=None, ge=1)


class PromptOptions(Section):
    """Options of an initialization from the task's prompts.

    Attributes
    ----------
    prompts
        Number of prompts passed through the base model.
    """

    prompts: int = Field(default=64, ge=1)


def lora_config(**settings: Any) -> Callable[[MethodRecipe, RunContext], Any]:
    """Return a function that builds a ``LoraConfig`` with these settings from a recipe section."""

    def build(recipe: MethodRecipe, context: RunContext) -> Any:
        from peft import LoraConfig

        init = recipe.options.get("init", "kaiming")
        return LoraConfig(
            r=recipe.r,
            lora_alpha=recipe.alpha,
            lora_dropout=recipe.dropout,
            target_modules=recipe.target_modules,
            task_type="CAUSAL_LM",
            **{"init_lora_weights": True if init == "kaiming" else init, **settings},
        )

    return build


def pissa_config(recipe: MethodRecipe, context: RunContext) -> Any:
    """Return the ``LoraConfig`` of PiSSA, with the exact SVD or with peft's randomized one."""
    niter = recipe.options["niter"]
    return lora_config(init_lora_weights="pissa" if niter is None else f"pissa_niter_{niter}")(recipe, context)


both_factors = each(lambda recipe, out, inner: rank(recipe) * (out + inner))

LORA = Method(
    FACTS["lora"],
    trains="A (r, in) and B (out, r) of each target module",
    defaults=LORA_DEFAULTS,
    options=LoraOptions,
    config=lora_config(),
    size=both_factors,
)

RANK1 = Method(
    FACTS["rank1"],
    trains="A (1, in) and B (out, 1) of each target module",
    defaults={**LORA_DEFAULTS, "r": 1, "alpha": 2.0},
    fixed={"r": 1},
    options=LoraOptions,
    config=lora_config(),
    size=both_factors,
    notes=("the default alpha gives the same scale s as LoRA with r 8 and alpha 16",),
)

RSLORA = Method(
    FACTS["rslora"],
    trains="A (r, in) and B (out, r) of each target module",
    defaults=LORA_DEFAULTS,
    options=LoraOptions,
    config=lora_config(use_rslora=True),
    size=both_factors,
    notes=("with the same alpha, its scale is √r times LoRA's",),
)

DORA = Method(
    FACTS["dora"],
    trains="A (r, in), B (out, r) and a magnitude m (out,) of each target module",
    defaults=LORA_DEFAULTS,
    options=DoraOptions,
    config=lora_config(use_dora=True),
    size=each(lambda recipe, out, inner: rank(recipe) * (out + inner) + out),
    notes=("ΔW has full rank: the magnitude rescales every row of W_0",),
)

LORA_PLUS = Method(
    FACTS["lora_plus"],
    trains="A (r, in) and B (out, r) of each target module, B at ratio times the learning rate",
    defaults=LORA_DEFAULTS,
    options=LoraPlusOptions,
    config=lora_config(),
    size=both_factors,
    optimizer=optimizers.lora_plus,
    learning_rate=1e-4,
    notes=("the recipe's learning rate is A's; the adapter on disk is plain LoRA",),
)

LORA_FA = Method(
    FACTS["lora_fa"],
    trains="B (out, r) of each target module; A (r, in) is frozen at its random initialization",
    defaults=LORA_DEFAULTS,
    options=DoraOptions,
    refused={"dora": "its optimizer expects pairs of A and B per module, and DoRA adds a magnitude"},
    config=lora_config(),
    size=each(lambda recipe, out, inner: rank(recipe) * out),
    initialize=initializations.freeze_a,
    optimizer=optimizers.lora_fa,
    notes=(
        "the optimizer multiplies B's gradient by (A·Aᵀ)⁻¹/s²; peft does this in bfloat16",
        "the adapter on disk is plain LoRA",
    ),
)

PISSA = Method(
    FACTS["pissa"],
    trains="A (r, in) and B (out, r), initialized from the r largest singular triplets of W_0",
    defaults=LORA_DEFAULTS,
    options=PissaOptions,
    config=pissa_config,
    rules=(AtMost("r"),),
    size=both_factors,
    learning_rate=1e-4,
    notes=(
        "the base becomes W_0 − s·B_0·A_0: on the pristine base the saved adapter is another model",
        "at LoRA's learning rate it can collapse: its initial factors are as large as the top directions of the base",
        "with niter, peft draws another initialization on each load: only the run's step-0 adapter determines ΔW",
        RESIDUAL_BETA,
    ),
)

MILORA = Method(
    FACTS["milora"],
    trains="A (r, in) and B (out, r), initialized from the r smallest singular triplets of W_0",
    defaults=LORA_DEFAULTS,
    config=lora_config(),
    rules=(AtMost("r"),),
    size=both_factors,
    initialize=initializations.smallest_triplets,
    notes=(
        "the base becomes W_0 − s·B_0·A_0, which peft cannot redo: a snapshot is the equivalent rank-2r LoRA on W_0, "
        "with [A; A_0] and [B, −B_0]",
        RESIDUAL_BETA,
    ),
)

MILORA_PLUS = Method(
    FACTS["milora_plus"],
    trains="A (r, in) from the r smallest right singular vectors of W_0, and B (out, r) from 0",
    defaults=LORA_DEFAULTS,
    config=lora_config(),
    rules=(AtMost("r"),),
    size=both_factors,
    initialize=initializations.smallest_right_vectors,
    notes=("the base is unchanged, so the adapter on disk is plain LoRA",),
)

OLORA = Method(
    FACTS["olora"],
    trains="A (r, in) and B (out, r), initialized from the QR decomposition of W_0",
    defaults=LORA_DEFAULTS,
    config=lora_config(init_lora_weights="olora"),
    rules=(AtMost("r"),),
    size=both_factors,
    learning_rate=1e-4,
    notes=(
        "the base becomes W_0 − s·B_0·A_0: on the pristine base the saved adapter is another model",
        RESIDUAL_BETA,
    ),
)

CORDA = Method(
    FACTS["corda"],
    trains="A (r, in) and B (out, r), from the r leading triplets of W_0·C, C the covariance of the layer's inputs",
    defaults=LORA_DEFAULTS,
    options=PromptOptions,
    config=lora_config(),
    rules=(AtMost("r"),),
    size=both_factors,
    learning_rate=1e-4,
    initialize=initializations.covariance_triplets,
    notes=(
        "the inputs are measured on the task's own prompts, with an in × in matrix of memory per module",
        "the base becomes W_0 − s·B_0·A_0, which peft cannot redo: a snapshot is the equivalent LoRA of rank 2r on W_0",
        RESIDUAL_BETA,
    ),
)

EVA = Method(
    FACTS["eva"],
    trains="A (r, in), from the leading singular vectors of the layer's inputs, and B (out, r) from 0",
    defaults=LORA_DEFAULTS,
    options=PromptOptions,
    config=lora_config(),
    rules=(AtMost("r", "in"),),
    size=both_factors,
    initialize=initializations.leading_inputs,
    learning_rate=1e-4,
    notes=(
        "the inputs are measured on the task's own prompts, with an in × in matrix of memory per module",
        "every layer has rank r; EVA's redistribution of ranks is not used",
    ),
)

MICA = Method(
    FACTS["mica"],
    trains="A (r, in) of each target module from 0; B (out, r) is the r smallest left singular vectors of W_0, frozen",
    defaults=LORA_DEFAULTS,
    config=lora_config(init_lora_weights="mica"),
    rules=(AtMost("r"),),
    size=each(lambda recipe, out, inner: rank(recipe) * inner),
)

METHODS = (LORA, RANK1, RSLORA, DORA, LORA_PLUS, LORA_FA, PISSA, MILORA, MILORA_PLUS, OLORA, CORDA, EVA, MICA)
