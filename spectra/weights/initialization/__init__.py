"""Initialization of an adapter: find it, recompute it, detect what it took from the base."""
