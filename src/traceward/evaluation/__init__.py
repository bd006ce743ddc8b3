"""What a reward is good for: picking an answer, naming the first wrong step, and the statistics of both. No torch."""
