"""The run-directory format: file names, atomic writes, strict reads."""
