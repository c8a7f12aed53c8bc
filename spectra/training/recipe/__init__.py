"""Recipe of a training run: strict YAML, one section per concern."""
