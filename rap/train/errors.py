"""What ends a training that cannot go on."""


class TrainingError(ValueError):
    """Training cannot go on; the message names what happened and what to change."""
