"""What checkpoints are worth: predictions, metrics, intervals."""
