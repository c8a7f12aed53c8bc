"""The row of table ``drift``: how the singular values and vectors of W changed."""

from jaxtyping import Float64
from torch import Tensor

from spectra.analysis.tables.columns import Row
from spectra.linalg.decompositions.basis import Basis
from spectra.linalg.measures.motion import motion
from spectra.linalg.operators.basic import Operator

_AS_THEY_ARE = (
    *("nss", "nss_error", "rho_sigma", "kappa_spec", "one_minus_cos"),
    *("rotation_head", "rotation_tail", "intruders", "intruder_energy"),
)


def drift_row(weight: Float64[Tensor, "o i"], basis: Basis, update: Operator) -> Row:
    """Return the row of one matrix without ``step`` and ``module``; definitions are those of ``Motion``.

    Parameters
    ----------
    weight
        The base weight W, O × I.
    basis
        Its singular basis.
    update
        ΔW, finite. Where it is 0, everything is 0 but ``rho_sigma`` and ``kappa_spec``, which are NaN.
    """
    found = motion(weight, basis, update)
    angles = {f"angle_max_k{k}": value for k, value in found.angle_max.items()}
    angles |= {f"angle_mean_k{k}": value for k, value in found.angle_mean.items()}
    return {name: getattr(found, name) for name in _AS_THEY_ARE} | angles
