"""Statistics over steps, layers and seeds: curves, intervals, summaries."""
