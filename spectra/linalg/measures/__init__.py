"""Metrics of an update: spectra, alignment with the base, motion, rounding."""
