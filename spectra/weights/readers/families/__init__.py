"""Readers of adapter tensors as ΔW operators, one module per family of methods.

The families are those of :mod:`spectra.weights.facts`; :mod:`spectra.training.methods.families` has the same files.
"""
