"""Training: named loss terms, one step, one resumable loop."""
