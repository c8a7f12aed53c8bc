"""Write a snapshot for other tools: as a LoRA or as a whole model."""
