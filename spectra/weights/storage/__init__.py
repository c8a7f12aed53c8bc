"""Bytes to tensors: safetensors read lazily, base models, quantized and transposed weights."""
