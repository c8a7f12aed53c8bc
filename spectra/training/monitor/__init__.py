"""Callbacks for other people's HF and TRL trainers."""
