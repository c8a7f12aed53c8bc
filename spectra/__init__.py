"""What did fine-tuning do to the weights, and is it healthy."""

__version__ = "0.1.0"
