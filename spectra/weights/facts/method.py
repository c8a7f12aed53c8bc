"""One row of the table of facts about methods, and the families into which readers and trainers group them."""

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
    "frod",  # in a basis that the modules of one kind share
    "base_conditioned",  # factors made from W
    "vectors",  # norms and biases
    "tokens",  # rows of the embedding
    "networks",  # hidden states changed by the input: no ΔW
    "prompts",  # virtual tokens, or keys and values: no ΔW
]


@dataclass(frozen=True)
class MethodFacts:
    """What holds of a method whoever trained it.

    Attributes
    ----------
    name
        What a recipe calls it.
    title
        Name as the literature writes it.
    family
        Family, which names the files of its reader and its trainer.
    peft_type
        ``peft_type`` in ``adapter_config.json``; None for full fine-tuning.
    update
        ΔW as a formula; W is (out, in).
    source
        Paper and arXiv id.
    aliases
        What else it is called.
    option
        Option of ``adapter_config.json`` that is set for this method of its type alone: ``use_dora``.
    initialization
        Value of ``init_lora_weights`` that every adapter of the method has, or its beginning: ``pissa``.
    rank
        The one rank that it can have.
    moves_base
        Whether initialization subtracts s·B₀A₀ from the base weights, so that the step-0 adapter is needed to know ΔW.
    saved_as_lora
        Whether a snapshot of spectra holds the equal plain LoRA of rank 2r on the original base, since peft would load
        the factors alone onto the wrong base.
    not_read
        Why its adapters leave no ΔW that spectra could analyze; None where they do.
    not_trained
        Why spectra does not train it; None where it does.
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
        """What the column ``method`` of the tables calls it."""
        return self.name.replace("_", "-")
