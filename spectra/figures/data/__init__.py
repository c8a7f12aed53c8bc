"""What the plots draw, prepared from tables; draws nothing."""
