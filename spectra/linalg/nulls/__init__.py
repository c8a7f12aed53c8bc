"""Null distributions: exact moments, p-values, random updates."""
