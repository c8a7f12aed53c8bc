"""From the tables of a run to a verdict with its evidence."""
