"""Sources of problems: files, datasets of the hub, generators, benchmarks."""
