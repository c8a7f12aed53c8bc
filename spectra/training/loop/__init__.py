"""Training loop of one run: trainer, callbacks, checkpoints, resume."""
