"""One training run from start to end: trainer, callbacks, checkpoints, resume."""
