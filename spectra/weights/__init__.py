"""Where a ΔW comes from: adapters, checkpoint pairs, base weights."""
