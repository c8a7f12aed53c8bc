"""Methods that train few entries of each weight, or of its transform."""

from pydantic import Field

from spectra.config import Section
from spectra.training.methods.method import TARGETS, Method, Peft
from spectra.training.methods.shapes import AtMost, each, number_of, rank
from spectra.weights.facts import FACTS


class FrequencyOptions(Section):
    """Options of FourierFT.

    Attributes
    ----------
    n_frequency
        Number of coefficients per module.
    scaling
        Factor of the transform.
    """

    n_frequency: int = Field(default=1000, ge=1)
    scaling: float = Field(default=150.0, gt=0)


class WaveletOptions(Section):
    """Options of WaveFT.

    Attributes
    ----------
    n_frequency
        Number of coefficients per module.
    scaling
        Factor of the transform.
    wavelet_family
        Wavelet, by its name in PyWavelets.
    use_idwt
        Whether the coefficients are wavelet coefficients; if not, single weights.
    """

    n_frequency: int = Field(default=1000, ge=1)
    scaling: float = Field(default=25.0, gt=0)
    wavelet_family: str = "db1"
    use_idwt: bool = True


class SupertuningOptions(Section):
    """Options of Supertuning.

    Attributes
    ----------
    sparsity
        Fraction of each weight that is frozen.
    select_top
        Whether the entries of largest magnitude train, or those of smallest.
    """

    sparsity: float = Field(default=0.99, ge=0, lt=1)
    select_top: bool = True


_frequencies = each(lambda recipe, out, inner: number_of(recipe, "options.n_frequency"))

METHODS = (
    Method(
        FACTS["fourierft"],
        trains="n coefficients of each target module at frequencies drawn with the seed",
        defaults=TARGETS,
        options=FrequencyOptions,
        config=Peft("FourierFTConfig", seed="random_loc_seed", fixed={"init_weights": True}),
        rules=(AtMost("options.n_frequency", "product"),),
        size=_frequencies,
        notes=("starts at ΔW = 0; peft's default is a random spectrum",),
    ),
    Method(
        FACTS["waveft"],
        trains="n wavelet coefficients of each target module at positions drawn with the seed",
        defaults=TARGETS,
        options=WaveletOptions,
        config=Peft("WaveFTConfig", seed="random_loc_seed"),
        rules=(AtMost("options.n_frequency", "product"),),
        size=_frequencies,
        learning_rate=1e-4,
    ),
    Method(
        FACTS["shira"],
        trains="r·(in + out) entries of each target's weight, at positions drawn with the seed",
        defaults={**TARGETS, "r": 8},
        config=Peft("ShiraConfig", {"r": "r"}, seed="random_seed"),
        size=each(lambda recipe, out, inner: rank(recipe) * (out + inner)),
    ),
    Method(
        FACTS["supertuning"],
        trains="the largest entries of each target's weight",
        defaults=TARGETS,
        options=SupertuningOptions,
        config=Peft("SupertuningConfig"),
        size=each(lambda recipe, out, inner: int(out * inner * (1 - recipe.options["sparsity"]))),
        learning_rate=1e-2,
    ),
)
