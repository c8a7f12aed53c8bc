"""The training wing: recipe → model, method, trainer, snapshots."""
