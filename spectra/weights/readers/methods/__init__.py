"""One module per family of methods: adapter tensors in, ΔW operators out."""
