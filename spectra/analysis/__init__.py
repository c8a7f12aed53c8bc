"""The analysis wing: tables and verdicts from a run directory."""
