"""How every figure looks: style sheet, panels, labels, number formats."""
