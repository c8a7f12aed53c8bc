"""Methods whose ΔW is tiled from blocks."""

from typing import Any, Literal

from pydantic import Field

from spectra.config import Section
from spectra.training.methods.method import RANKED, SCALED, TARGETS, Method, Peft, RunContext
from spectra.training.methods.recipe_section import MethodRecipe
from spectra.training.methods.shapes import AtMost, Divides, each, number_of, rank
from spectra.weights.facts import FACTS


class MissOptions(Section):
    """Options of MiSS.

    Attributes
    ----------
    init
        ``balance``: D is tiled along the inputs. ``bat``: D also multiplies W, block by block. ``mini``: D is tiled
        along both sides.
    mini_r
        Columns of D in ``mini``; must divide the out-features.
    """

    init: Literal["balance", "bat", "mini"] = "balance"
    mini_r: int = Field(default=1, ge=1)


def _miss_config(recipe: MethodRecipe, context: RunContext) -> Any:
    from peft import MissConfig

    init = recipe.options["init"]
    return MissConfig(
        r=recipe.r,
        miss_dropout=recipe.dropout,
        mini_r=recipe.options["mini_r"],
        init_weights=True if init == "balance" else init,
        target_modules=recipe.target_modules,
        task_type="CAUSAL_LM",
    )


def _miss_size(recipe: MethodRecipe, out: int, inner: int) -> int:
    return rank(recipe) * (recipe.options["mini_r"] if recipe.options["init"] == "mini" else out)


class C3aOptions(Section):
    """Options of C³A.

    Attributes
    ----------
    block_size
        Side of a circulant block; must divide both sides of every target.
    """

    block_size: int = Field(default=64, ge=1)


class GraloraOptions(Section):
    """Options of GraLoRA.

    Attributes
    ----------
    gralora_k
        The weight is a grid of k × k blocks, each with its own factors; must divide r and both sides of every target.
    hybrid_r
        Rank of an additional LoRA over the full weight.
    """

    gralora_k: int = Field(default=2, ge=1)
    hybrid_r: int = Field(default=0, ge=0)


class AdamssOptions(Section):
    """Options of AdaMSS.

    Attributes
    ----------
    num_subspaces
        Clusters of each weight's left singular rows.
    subspace_rank
        Rank of the update in each.
    """

    num_subspaces: int = Field(default=4, ge=1)
    subspace_rank: int = Field(default=1, ge=1)


def _adamss_size(recipe: MethodRecipe, out: int, inner: int) -> int:
    # Valid if no cluster has fewer rows than subspace_rank.
    return number_of(recipe, "options.subspace_rank") * (
        out + number_of(recipe, "options.num_subspaces") * rank(recipe)
    )


def _gralora_size(recipe: MethodRecipe, out: int, inner: int) -> int:
    return (rank(recipe) + int(recipe.options["hybrid_r"])) * (out + inner)


METHODS = (
    Method(
        FACTS["miss"],
        trains="D (r, out) of each target module",
        defaults={**RANKED, "dropout": 0.0},
        options=MissOptions,
        config=_miss_config,
        rules=(
            AtMost("r", "in"),
            Divides("r", when=("init", "bat")),
            Divides("options.mini_r", ("out",), when=("init", "mini")),
        ),
        size=each(_miss_size),
        notes=("there is no scale: the learning rate alone sets the step",),
    ),
    Method(
        FACTS["c3a"],
        trains="one kernel (b,) per b × b block of each target module",
        defaults=TARGETS,
        options=C3aOptions,
        config=Peft("C3AConfig", fixed={"init_weights": True}),
        rules=(Divides("options.block_size"),),
        size=each(lambda recipe, out, inner: out * inner // number_of(recipe, "options.block_size")),
        learning_rate=1e-1,
        notes=("starts at ΔW = 0; peft's default is a random kernel",),
    ),
    Method(
        FACTS["gralora"],
        trains="k × k pairs of factors of each target module, of rank r/k each",
        defaults={**SCALED, "dropout": 0.0},
        options=GraloraOptions,
        config=Peft("GraloraConfig", {"r": "r", "alpha": "alpha", "dropout": "gralora_dropout"}),
        rules=(Divides("options.gralora_k"),),
        size=each(_gralora_size),
    ),
    Method(
        FACTS["adamss"],
        trains="A and B of rank subspace_rank for each cluster of a target's rows, in its r leading directions",
        defaults={**TARGETS, "r": 32},
        options=AdamssOptions,
        config=Peft("AdamssConfig", {"r": "r"}, seed="random_seed"),
        size=each(_adamss_size),
        rules=(AtMost("r"),),
        needs=("sklearn", "scikit-learn"),
        notes=("the assignment of rows to clusters is not saved: peft clusters again on loading",),
    ),
)
