"""A matrix of places: rewards that are learned at some, and used at others."""
