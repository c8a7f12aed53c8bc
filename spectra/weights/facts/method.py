"""Facts about one method, and the families into which readers and trainers group methods."""

from dataclasses import dataclass
from typing import Literal

# Each family is one file of spectra.training.methods.families (not prompts, which are not trained) and one of
# spectra.weights.readers.families (not full, networks and prompts, which leave no adapter with a ΔW).
Family = Literal[
    "full",  # every parameter of the base
    "lora",  # s·B·A, or s·(B·A − B₀·A₀)
    "adalora",  # s·B·diag(E)·A, its ranks pruned while training
    "kronecker",  # entrywise and Kronecker products of small factors
    "blocks",  # blocks that tile the matrix
    "shared_projections",  # factors from tensors that all modules share
    "sparse",  # few coefficients at fixed places
    "rotations",  # features of W rotated or reflected
    "scalings",  # entries of W scaled
    "singular",  # between singular vectors of W
    "frod",  # in a basis shared by the modules of one type
    "base_conditioned",  # factors made from W
    "vectors",  # norms and biases
    "tokens",  # rows of the embedding
    "networks",  # hidden states changed by the input: no ΔW
    "prompts",  # virtual tokens, or keys and values: no ΔW
]


@dataclass(frozen=True)
class MethodFacts:
    """Facts about a method, independent of the tool that trained it.

    Attributes
    ----------
    name
        Name in a recipe.
    title
        Name in the literature.
    family
        Family, which names the files of its reader and its trainer.
    peft_type
        ``peft_type`` in ``adapter_config.json``; None for full fine-tuning.
    update
        ΔW as a formula; W is (out, in).
    source
        Paper and arXiv id.
    aliases
        Other names.
    option
        Option of ``adapter_config.json`` that only this method of its type sets: ``use_dora``.
    initialization
        Value of ``init_lora_weights`` in every adapter of the method, or its prefix: ``pissa``.
    rank
        The only possible rank; None if any.
    moves_base
        Whether initialization subtracts s·B₀A₀ from the base weights, so that ΔW needs the step-0 adapter.
    saved_as_lora
        Whether spectra saves snapshots as the equivalent plain LoRA of rank 2r on the original base, since peft would
        load the factors alone onto the wrong base.
    not_read
        Why its adapters have no ΔW that spectra can analyze; None if they have one.
    not_trained
        Why spectra does not train it; None if it does.
    """

    name: str
    title: str
    family: Family
    peft_type: str | None
    update: str
    source: str
    aliases: tuple[str, ...] = ()
    option: str | None = None
    initialization: str | None = None
    rank: int | None = None
    moves_base: bool = False
    saved_as_lora: bool = False
    not_read: str | None = None
    not_trained: str | None = None

    @property
    def label(self) -> str:
        """Name in the column ``method`` of the tables."""
        return self.name.replace("_", "-")
