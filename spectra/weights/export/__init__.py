"""Write a snapshot for other tools: as a LoRA adapter or as a full model."""
