"""Recipe section for the problems and their source."""

from typing import Any, Literal

from pydantic import Field, model_validator

from spectra.config import NAME_PATTERN, KeyFault, Section

CARRY_ADDITION = "carry_addition"


class GeneratorRecipe(Section):
    """Problems from a ``reasoning_gym:`` generator.

    Attributes
    ----------
    size
        Number of problems, before duplicates are dropped.
    seed
        Seed of the training problems. Held-out problems use the next seed, without those of the training set.
    options
        Configuration of the generator.
    """

    size: int = Field(default=1000, ge=1)
    seed: int = Field(default=0, ge=0)
    options: dict[str, Any] = Field(default_factory=dict)


class TaskRecipe(Section):
    """Problems with verifiable answers: the built-in task, files, a dataset, or a generator.

    Attributes
    ----------
    name
        ``carry_addition``, or any name for your ``data``.
    data, heldout
        Training and held-out problems: a ``.jsonl`` or ``.parquet`` file, a directory that ``datasets`` reads, a
        hub id such as ``open-r1/DAPO-Math-17k-Processed``, or ``reasoning_gym:`` with a generator's name. ``heldout``
        may also be ``benchmark:`` with a name of ``spectra eval``. Paths are relative to the working directory.
    subset, split, heldout_split, revision
        Of a Hugging Face dataset. Subset and revision apply to ``heldout`` too if it is the same dataset.
    prompt, answer
        Columns; dots lead into nested ones: ``reward_model.ground_truth``. A prompt is text or chat messages; an answer
        is the gold answer, with or without a box.
    answer_after
        The gold answer is the text after the last occurrence of this, such as ``####``.
    remove
        Texts to cut out of prompts: instructions that the format below replaces.
    unique
        Drop repeated prompts: DAPO-Math-17k has each of its 17k prompts about a hundred times.
    format
        ``none``: prompts as they are. ``boxed``: a chat message that asks for the answer in a box. ``think``: a chat
        whose system message asks for ``<think>…</think>`` and then the answer in a box.
    format_weight
        Reward for closing the reasoning once and answering in a box after it; 0 disables it.
    generator
        Settings of ``reasoning_gym:`` sources.
    data_sha256, heldout_sha256
        Digests of the problems, recorded in the run's recipe so that changed data is noticed.
    """

    name: str = Field(default=CARRY_ADDITION, pattern=NAME_PATTERN)
    data: str | None = None
    heldout: str | None = None
    subset: str | None = None
    split: str = "train"
    heldout_split: str = "test"
    revision: str | None = None
    prompt: str = "prompt"
    answer: str = "answer"
    answer_after: str | None = None
    remove: list[str] = Field(default_factory=list)
    unique: bool = False
    format: Literal["none", "boxed", "think"] = "none"
    format_weight: float = Field(default=0.0, ge=0)
    generator: GeneratorRecipe = Field(default_factory=GeneratorRecipe)
    data_sha256: str | None = None
    heldout_sha256: str | None = None

    @model_validator(mode="after")
    def _check(self) -> "TaskRecipe":
        if self.data is None and self.name != CARRY_ADDITION:
            raise KeyFault("name", f"no task {self.name!r}; choose {CARRY_ADDITION!r}, or give task.data a source")
        if self.data is not None and self.name == CARRY_ADDITION:
            raise KeyFault("name", f"{CARRY_ADDITION!r} is the built-in task; give your data another name")
        if self.data is None and self.heldout is not None:
            raise KeyFault("heldout", "needs task.data; give both or neither")
        if self.data is None and self.format != "none":
            raise KeyFault("format", f"{CARRY_ADDITION!r} has a fixed prompt format; remove it")
        return self
