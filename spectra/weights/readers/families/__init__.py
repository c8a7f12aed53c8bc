"""One module per family of methods: adapter tensors in, ΔW operators out.

The families are those of :mod:`spectra.weights.facts`; :mod:`spectra.training.methods.families` has the same files.
"""
