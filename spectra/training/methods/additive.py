"""Methods that add a structured matrix to W: tiled, Hadamard, Kronecker, circulant, in a grid, normalised."""

from typing import Any, Literal

from pydantic import Field

from spectra.config import Section
from spectra.training.methods.method import LINEAR_MODULES, Method, Peft, Setting
from spectra.training.methods.section import MethodRecipe
from spectra.training.methods.shapes import AtMost, Divides, each, number_of, rank

_TARGETS = {"target_modules": LINEAR_MODULES}
_RANKED = {**_TARGETS, "r": 8}
_SCALED = {**_RANKED, "alpha": 16.0}


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


def _miss_config(recipe: MethodRecipe, setting: Setting) -> Any:
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


class LokrOptions(Section):
    """Options of LoKr.

    Attributes
    ----------
    decompose_both
        Whether the small Kronecker factor is itself a product of rank r where that is smaller.
    decompose_factor
        Size of the small factor; −1 splits each side as evenly as it can.
    """

    decompose_both: bool = False
    decompose_factor: int = Field(default=-1, ge=-1)


def _lokr_size(recipe: MethodRecipe, out: int, inner: int) -> int:
    factor, r = recipe.options["decompose_factor"], rank(recipe)
    (small_out, large_out), (small_in, large_in) = split(out, factor), split(inner, factor)
    halved = recipe.options["decompose_both"] and r < max(small_out, small_in) / 2
    first = r * (small_out + small_in) if halved else small_out * small_in
    low = r < max(large_out, large_in) / 2
    return first + (r * (large_out + large_in) if low else large_out * large_in)


def split(dimension: int, factor: int) -> tuple[int, int]:
    """Return two factors of a dimension: ``factor`` first where it divides, else the most even pair up to it.

    >>> split(128, -1), split(128, 4), split(127, -1)
    ((8, 16), (4, 32), (1, 127))
    """
    if factor > 0 and dimension % factor == 0:
        return factor, dimension // factor
    limit = dimension if factor == -1 else factor
    small = max(m for m in range(1, dimension + 1) if m * m <= dimension and dimension % m == 0 and m <= max(limit, 1))
    return small, dimension // small


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
        Rank of a LoRA over the whole weight beside the grid.
    """

    gralora_k: int = Field(default=2, ge=1)
    hybrid_r: int = Field(default=0, ge=0)


class DeloraOptions(Section):
    """Options of DeLoRA.

    Attributes
    ----------
    delora_lambda
        Value at which the trained norm of the update starts.
    """

    delora_lambda: float = Field(default=0.5, gt=0)


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
    # As long as no cluster has fewer rows than subspace_rank.
    return number_of(recipe, "options.subspace_rank") * (
        out + number_of(recipe, "options.num_subspaces") * rank(recipe)
    )


def _gralora_size(recipe: MethodRecipe, out: int, inner: int) -> int:
    return (rank(recipe) + int(recipe.options["hybrid_r"])) * (out + inner)


METHODS = (
    Method(
        name="miss",
        title="MiSS",
        peft_type="MISS",
        aliases=("bone",),
        trains="D (r, out) of each target module",
        update="ΔW[:, j] = D[j mod r, :]ᵀ; with init bat W_block·D + D a block of r × r",
        source="Kang and Yin 2024, arXiv:2409.15371",
        defaults={**_RANKED, "dropout": 0.0},
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
        name="loha",
        title="LoHa",
        peft_type="LOHA",
        trains="two pairs (out, r), (r, in) of each target module",
        update="s·(B_1·A_1) ⊙ (B_2·A_2), s = alpha/r; rank at most r²",
        source="Hyeon-Woo et al. 2021, arXiv:2108.06098",
        defaults=_SCALED,
        config=Peft("LoHaConfig", {"r": "r", "alpha": "alpha"}),
        size=each(lambda recipe, out, inner: 2 * rank(recipe) * (out + inner)),
        learning_rate=1e-2,
    ),
    Method(
        name="lokr",
        title="LoKr",
        peft_type="LOKR",
        trains="two Kronecker factors of each target, the large one as a product of rank r where that is smaller",
        update="s·(C ⊗ D), s = alpha/r",
        source="Yeh et al. 2023, arXiv:2309.14859",
        defaults=_SCALED,
        options=LokrOptions,
        config=Peft("LoKrConfig", {"r": "r", "alpha": "alpha"}),
        size=each(_lokr_size),
    ),
    Method(
        name="c3a",
        title="C³A",
        peft_type="C3A",
        trains="one kernel (b,) a block of b × b of each target module",
        update="block-circulant(kernel)/in",
        source="Chen et al. 2024, arXiv:2407.19342",
        defaults=_TARGETS,
        options=C3aOptions,
        config=Peft("C3AConfig", fixed={"init_weights": True}),
        rules=(Divides("options.block_size"),),
        size=each(lambda recipe, out, inner: out * inner // number_of(recipe, "options.block_size")),
        learning_rate=1e-1,
        notes=("starts at ΔW = 0; peft's own default starts at a random kernel",),
    ),
    Method(
        name="gralora",
        title="GraLoRA",
        peft_type="GRALORA",
        trains="k × k pairs of factors of each target module, of rank r/k each",
        update="a k × k grid of s·B·A, s = alpha/(r + hybrid_r), and a LoRA of rank hybrid_r",
        source="Jung et al. 2025, arXiv:2505.20355",
        defaults={**_SCALED, "dropout": 0.0},
        options=GraloraOptions,
        config=Peft("GraloraConfig", {"r": "r", "alpha": "alpha", "dropout": "gralora_dropout"}),
        rules=(Divides("options.gralora_k"),),
        size=each(_gralora_size),
    ),
    Method(
        name="delora",
        title="DeLoRA",
        peft_type="DELORA",
        trains="A (r, in), B (out, r) and the norm λ of each target module",
        update="λ/r·Σ_i b_i·a_i/(‖b_i‖·‖a_i‖), column c times ‖W_0[:, c]‖",
        source="Bini et al. 2025, arXiv:2503.18225",
        defaults=_RANKED,
        options=DeloraOptions,
        config=Peft("DeloraConfig", {"r": "r"}),
        size=each(lambda recipe, out, inner: rank(recipe) * (out + inner) + 1),
        learning_rate=1e-2,
        notes=(
            "B is normalised: the first step, however small, makes an update of norm λ; peft's default of 15 destroys "
            "the base that ships with spectra at any learning rate",
        ),
    ),
    Method(
        name="adamss",
        title="AdaMSS",
        peft_type="ADAMSS",
        trains="A and B of rank subspace_rank for each cluster of a target's rows, in its r leading directions",
        update="rows of cluster k: B_k·A_k·V_rᵀ, V_r the leading right singular vectors of W_0",
        source="Zheng et al. 2025, NeurIPS",
        defaults={**_TARGETS, "r": 32},
        options=AdamssOptions,
        config=Peft("AdamssConfig", {"r": "r"}, seed="random_seed"),
        size=each(_adamss_size),
        rules=(AtMost("r"),),
        needs=("sklearn", "scikit-learn"),
        notes=("which row is in which cluster is not saved: peft clusters again when it loads",),
    ),
)
