"""One module per family of methods that spectra trains.

The families are those of :mod:`spectra.weights.facts`; :mod:`spectra.weights.readers.families` has the same files.
"""
