"""What is learned: reward models, their heads, and the scoring path."""
