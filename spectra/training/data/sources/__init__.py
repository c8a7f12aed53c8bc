"""Where problems come from: files, datasets of the hub, generators, benchmarks."""
