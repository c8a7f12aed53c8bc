"""Callback for third-party HF and TRL trainers."""
