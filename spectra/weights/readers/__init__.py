"""Adapters of every PEFT method, read as updates of base parameters."""
