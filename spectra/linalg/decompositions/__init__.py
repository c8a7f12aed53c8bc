"""Singular values and bases, principal angles, and the rank tolerance."""
