"""Tensor storage: lazy safetensors, base models, quantized and transposed weights."""
