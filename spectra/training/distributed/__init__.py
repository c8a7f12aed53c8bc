"""Several processes of one run: decisions taken together, sharded weights gathered."""
