"""The suite that keeps `rap` fast; `harness` measures and decides and knows nothing of it."""
