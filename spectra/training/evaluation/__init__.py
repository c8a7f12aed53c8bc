"""Evaluate a snapshot on benchmarks: generate, score, estimate Pass@k."""
