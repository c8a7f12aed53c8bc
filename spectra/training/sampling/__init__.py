"""Completions by transformers or by vLLM."""
