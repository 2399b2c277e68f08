"""Random view synthesis: new poses near the training poses, rendered into the image bank."""
