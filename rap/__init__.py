"""Visual localisation: a pose regressor trained on random views of a Gaussian splat."""
