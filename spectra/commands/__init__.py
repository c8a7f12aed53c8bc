"""One plain function per command; each imports its wing inside the function."""
