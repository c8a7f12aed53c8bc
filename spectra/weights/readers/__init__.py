"""Read adapters of PEFT methods as updates of base parameters."""
