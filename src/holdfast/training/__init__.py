"""Floor 3: from examples to a model."""
