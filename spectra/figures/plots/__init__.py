"""One function per plot: prepared numbers in, matplotlib axes out."""
