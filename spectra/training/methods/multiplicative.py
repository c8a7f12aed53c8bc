"""Methods whose ΔW depends on W: rotations, reflections, rescaling, products with W, parts of its decomposition."""

from typing import Literal

from pydantic import Field

from spectra.config import Section
from spectra.errors import RecipeError
from spectra.training.methods.method import LINEAR_MODULES, Method, Peft
from spectra.training.methods.section import MethodRecipe
from spectra.training.methods.shapes import AtMost, Divides, Shapes, each, number_of, rank

_TARGETS = {"target_modules": LINEAR_MODULES}
_RANKED = {**_TARGETS, "r": 8}


class OftOptions(Section):
    """Options of OFT.

    Attributes
    ----------
    oft_block_size
        Side of a rotated block of inputs; must divide the in-features of every target.
    block_share
        Whether all blocks of a module rotate alike.
    use_cayley_neumann
        Whether the rotation is a series in place of the exact Cayley transform; then it is only nearly orthogonal.
    """

    oft_block_size: int = Field(default=16, ge=2)
    block_share: bool = False
    use_cayley_neumann: bool = True


def _oft_size(recipe: MethodRecipe, out: int, inner: int) -> int:
    block = number_of(recipe, "options.oft_block_size")
    return (1 if recipe.options["block_share"] else inner // block) * block * (block - 1) // 2


class BoftOptions(Section):
    """Options of BOFT.

    Attributes
    ----------
    boft_block_size
        Side of a rotated block of inputs; must divide the in-features of every target.
    """

    boft_block_size: int = Field(default=4, ge=2)


class RoadOptions(Section):
    """Options of RoAd.

    Attributes
    ----------
    variant
        One angle and scale a pair of outputs (``road_1``), a row of each pair (``road_2``), or an entry (``road_4``).
    group_size
        Outputs that are paired among themselves; even, and must divide the out-features of every target.
    """

    variant: Literal["road_1", "road_2", "road_4"] = "road_1"
    group_size: int = Field(default=64, ge=2, multiple_of=2)


class PsoftOptions(Section):
    """Options of PSOFT.

    Attributes
    ----------
    psoft_mag_a, psoft_mag_b
        Whether a vector scales each side of the rotation.
    """

    psoft_mag_a: bool = True
    psoft_mag_b: bool = True


def _psoft_size(recipe: MethodRecipe, out: int, inner: int) -> int:
    sides = int(recipe.options["psoft_mag_a"]) + int(recipe.options["psoft_mag_b"])
    return rank(recipe) * (rank(recipe) - 1) // 2 + sides * rank(recipe)


class TinyloraOptions(Section):
    """Options of TinyLoRA.

    Attributes
    ----------
    u
        Length of a trained vector.
    weight_tying
        Share of modules that have their vector in common: 0 none, 1 all.
    """

    u: int = Field(default=64, ge=1)
    weight_tying: float = Field(default=0.0, ge=0, le=1)


class FrodOptions(Section):
    """Options of FRoD.

    Attributes
    ----------
    sparse_rate
        Share of the off-diagonal entries that train.
    """

    sparse_rate: float = Field(default=0.01, ge=0, le=1)


class DeftOptions(Section):
    """Options of DEFT.

    Attributes
    ----------
    decomposition_method
        Projector of the removed subspace: P·relu(P)ᵀ, or orthogonal by ``qr``.
    """

    decomposition_method: Literal["relu", "qr"] = "relu"


class PeanutOptions(Section):
    """Options of PEANuT.

    Attributes
    ----------
    depth
        Encoding layers of r × r, and as many decoding.
    act_fn
        Its non-linearity, as transformers names it.
    """

    depth: int = Field(default=0, ge=0)
    act_fn: str = "relu"


class GloraOptions(Section):
    """Options of GLoRA.

    Attributes
    ----------
    config_A_B
        Form of the paths A and B.
    """

    config_A_B: Literal["lora", "vector", "constant"] = "lora"


def _tinylora_size(recipe: MethodRecipe, shapes: Shapes) -> int:
    groups: int = max(1, round(len(shapes) * (1 - recipe.options["weight_tying"])))
    return number_of(recipe, "options.u") * groups


def _glora_size(recipe: MethodRecipe, out: int, inner: int) -> int:
    path = {"lora": rank(recipe) * (out + inner), "vector": out, "constant": 1}
    return 2 * path[str(recipe.options["config_A_B"])]


def even_rank(recipe: MethodRecipe, shapes: Shapes) -> None:
    """Raise :class:`RecipeError` for an odd rank."""
    if rank(recipe) % 2:
        raise RecipeError(
            f"{recipe.r} is odd, and {recipe.name} needs pairs", where="method.r", hint="choose an even r"
        )


METHODS = (
    Method(
        name="oft",
        title="OFT",
        peft_type="OFT",
        trains="a skew-symmetric b × b block for each block of inputs of each target module",
        update="W_0·Rᵀ − W_0, R block-diagonal orthogonal, the Cayley transform of the blocks",
        source="Qiu et al. 2023, arXiv:2306.07280",
        defaults=_TARGETS,
        options=OftOptions,
        config=Peft("OFTConfig"),
        rules=(Divides("options.oft_block_size", ("in",)),),
        size=each(_oft_size),
    ),
    Method(
        name="boft",
        title="BOFT",
        peft_type="BOFT",
        trains="a b × b block for each block of inputs, and a scale s (out,), of each target module",
        update="diag(s)·W_0·Rᵀ − W_0, R block-diagonal orthogonal",
        source="Liu et al. 2023, arXiv:2311.06243",
        defaults=_TARGETS,
        options=BoftOptions,
        refused={
            "boft_n_butterfly_factor": "peft silently makes it 1 where its CUDA extension cannot be built; "
            "spectra keeps 1 everywhere"
        },
        config=Peft("BOFTConfig"),
        rules=(Divides("options.boft_block_size", ("in",)),),
        size=each(lambda recipe, out, inner: inner * number_of(recipe, "options.boft_block_size") + out),
    ),
    Method(
        name="hra",
        title="HRA",
        peft_type="HRA",
        trains="r reflection vectors u (in,) of each target module",
        update="W_0·Π_i(I − 2·u_i·u_iᵀ/‖u_i‖²) − W_0",
        source="Yuan et al. 2024, arXiv:2405.17484",
        defaults=_RANKED,
        refused={"apply_GS": "its vectors start in equal pairs, which Gram-Schmidt divides 0 by 0"},
        config=Peft("HRAConfig", {"r": "r"}),
        rules=(AtMost("r", "in"), even_rank),
        size=each(lambda recipe, out, inner: rank(recipe) * inner),
        notes=("r must be even: the reflections start in equal pairs that cancel",),
    ),
    Method(
        name="road",
        title="RoAd",
        peft_type="ROAD",
        trains="an angle and a scale for pairs of outputs of each target module",
        update="R·W_0 − W_0, R 2 × 2 scaled rotations of the outputs",
        source="Liao and Monz 2024, arXiv:2409.00119",
        defaults=_TARGETS,
        options=RoadOptions,
        config=Peft("RoadConfig"),
        rules=(Divides("options.group_size", ("out",)),),
        size=each(lambda recipe, out, inner: out * {"road_1": 1, "road_2": 2, "road_4": 4}[recipe.options["variant"]]),
        learning_rate=1e-2,
    ),
    Method(
        name="hira",
        title="HiRA",
        peft_type="HIRA",
        trains="A (r, in) and B (out, r) of each target module",
        update="W_0 ⊙ (B·A)",
        source="Huang et al. 2025, ICLR",
        defaults={**_RANKED, "dropout": 0.0},
        config=Peft("HiraConfig", {"r": "r", "dropout": "hira_dropout"}),
        size=each(lambda recipe, out, inner: rank(recipe) * (out + inner)),
        learning_rate=1e-2,
        notes=("there is no scale, and W_0's entries are small: it needs a larger learning rate than LoRA",),
    ),
    Method(
        name="psoft",
        title="PSOFT",
        peft_type="PSOFT",
        trains="an r × r rotation, and a scale at each side of it, in the r leading directions of each target",
        update="s·B·(R − I)·A, B·A the r leading singular triplets of W_0, s = alpha/r",
        source="ICLR 2026, openreview FSHrinMArK",
        defaults={**_RANKED, "alpha": 8.0, "dropout": 0.0},
        options=PsoftOptions,
        config=Peft("PsoftConfig", {"r": "r", "alpha": "psoft_alpha", "dropout": "psoft_dropout"}),
        rules=(AtMost("r"),),
        size=each(_psoft_size),
    ),
    Method(
        name="tinylora",
        title="TinyLoRA",
        peft_type="TINYLORA",
        trains="one vector v (u,) a target module, or a group of them",
        update="B·(Σ_i v_i·P_i)·A, B·A the r leading singular triplets of W_0, P_i random r × r",
        source="arXiv:2602.04118",
        defaults={**_TARGETS, "r": 2, "dropout": 0.0},
        options=TinyloraOptions,
        config=Peft("TinyLoraConfig", {"r": "r", "dropout": "tinylora_dropout"}, seed="projection_seed"),
        size=_tinylora_size,
    ),
    Method(
        name="frod",
        title="FRoD",
        peft_type="FROD",
        trains="the diagonal L and sparse entries S of each target in a basis V that modules of a kind share",
        update="U·(S + diag(L))·Vᵀ − W_0",
        source="AAAI 2026, doi:10.1609/aaai.v40i31.39813",
        defaults={**_TARGETS, "dropout": 0.0},
        options=FrodOptions,
        config=Peft(
            "FrodConfig", {"dropout": "frod_dropout"}, seed="projection_prng_key", fixed={"progressbar": False}
        ),
        size=each(lambda recipe, out, inner: inner + int(inner * inner * recipe.options["sparse_rate"])),
    ),
    Method(
        name="osf",
        title="OSF",
        peft_type="OSF",
        trains="all singular triplets of each target but the r leading ones, which stay",
        update="U_low·S_low·V_low as trained, minus as they were",
        source="Nayak et al. 2025, arXiv:2504.07097",
        defaults=_RANKED,
        config=Peft("OSFConfig", {"r": "effective_rank"}),
        rules=(AtMost("r"),),
        size=each(lambda recipe, out, inner: (min(out, inner) - rank(recipe)) * (out + inner + 1)),
        notes=(
            "more weights train than the base has",
            "snapshots hold the trained part alone: the rest is the base's own decomposition, made again on loading",
        ),
    ),
    Method(
        name="deft",
        title="DEFT",
        peft_type="DEFT",
        trains="P (out, r) and R (r, in) of each target module",
        update="P·(s·R − relu(P)ᵀ·W_0), or with qr Q·(s·R − Qᵀ·W_0), Q an orthonormal basis of P",
        source="Kumar et al. 2025, NeurIPS",
        defaults=_RANKED,
        options=DeftOptions,
        config=Peft("DeftConfig", {"r": "r"}),
        rules=(AtMost("r", "out"),),
        size=each(lambda recipe, out, inner: rank(recipe) * (out + inner)),
    ),
    Method(
        name="peanut",
        title="PEANuT",
        peft_type="PEANUT",
        trains="a network from the columns of W_0 to those of ΔW",
        update="(f(W_0ᵀ·Aᵀ)·Bᵀ)ᵀ, f its non-linearity and hidden layers",
        source="Zhong et al. 2024, arXiv:2410.01870",
        defaults=_RANKED,
        options=PeanutOptions,
        config=Peft("PeanutConfig", {"r": "r"}),
        size=each(lambda recipe, out, inner: 2 * rank(recipe) * (out + recipe.options["depth"] * rank(recipe))),
    ),
    Method(
        name="glora",
        title="GLoRA",
        peft_type="GLORA",
        trains="paths A and B of each target module; where the base has biases, paths to them too",
        update="W_0 ⊙ A + B, each a product of rank r, a vector or a number",
        source="Chavan et al. 2023, arXiv:2306.07967",
        defaults=_RANKED,
        options=GloraOptions,
        config=Peft("GloraConfig", {"r": "r"}),
        size=each(_glora_size),
    ),
)
