"""Many recipes as one experiment: a grid, the work its cells share, and one table."""
