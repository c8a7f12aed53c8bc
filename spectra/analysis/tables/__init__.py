"""One file per table: the rows that one matrix or one snapshot contributes."""
