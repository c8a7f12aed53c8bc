"""Sources of ΔW: adapters, checkpoint pairs, base weights."""
