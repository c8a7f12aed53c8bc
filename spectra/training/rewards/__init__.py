"""Verifiable rewards: math equality, checked in processes with limits."""
