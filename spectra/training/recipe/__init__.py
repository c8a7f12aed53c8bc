"""What a recipe may say: strict YAML, one section per concern."""
