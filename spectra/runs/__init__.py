"""The run-directory format: what is where, written atomically and read strictly."""
