"""Tables in, a verdict with its evidence out."""
