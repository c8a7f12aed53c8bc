"""Initialization of an adapter: find it, recompute it, detect it from the tensors."""
