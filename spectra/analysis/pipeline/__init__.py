"""From a run directory to rows: what is computed, by which processes, and what is reused."""
