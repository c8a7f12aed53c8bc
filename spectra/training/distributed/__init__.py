"""Runs with several processes: shared decisions, and gathering of sharded weights."""
