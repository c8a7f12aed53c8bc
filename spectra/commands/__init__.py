"""One plain function a verb; each imports its wing inside the function."""
