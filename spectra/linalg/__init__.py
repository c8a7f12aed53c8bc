"""Tensors in, tensors out: operators, decompositions, subspaces, nulls. Knows no model, path or configuration.

Shape letters, used in every signature::

    O  out-features of a weight matrix, its rows        (m in formulas)
    I  in-features, its columns                         (n)
    Q  min(O, I), the number of singular directions     (q)
    R  rank of a factored update, the adapter's r
    K  retained singular directions
    T  snapshots
    L  layers

Nothing is imported here: ``spectra.linalg.nulls.haar_moments`` is pure arithmetic, and figures use it without torch.
"""
