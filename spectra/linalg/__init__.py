"""Linear algebra on tensors: operators, decompositions, subspaces, nulls. No models, paths or configurations.

Shape letters, used in every signature::

    O  out-features of a weight matrix, its rows        (m in formulas)
    I  in-features, its columns                         (n)
    Q  min(O, I), the number of singular directions     (q)
    R  rank of a factored update, the adapter's r
    K  retained singular directions
    T  snapshots
    L  layers

This file imports nothing, so that figures can use ``spectra.linalg.nulls.haar_moments``, plain arithmetic, without
torch.
"""
