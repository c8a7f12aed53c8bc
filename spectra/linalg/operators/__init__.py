"""ΔW as an operator: dense, low-rank, sums, Kronecker, circulant, rotated."""
