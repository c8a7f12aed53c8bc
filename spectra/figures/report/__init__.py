"""The gallery of a run, its captions, and the pages that show them."""
