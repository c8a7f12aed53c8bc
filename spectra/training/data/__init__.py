"""Problems, prompts and benchmarks."""
