"""Statistics that several parts of spectra share; independent of models, runs and plots."""
