"""Statistics that several wings share; knows no model, no run and no plot."""
