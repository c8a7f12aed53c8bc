"""Grids of runs: planned, launched in processes, compared."""
