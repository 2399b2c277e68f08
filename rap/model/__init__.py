"""The pose regressor and its checkpoints."""
