"""What chance gives: exact moments, distributions, sampled nulls."""
