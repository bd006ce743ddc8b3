"""What a run will take, worked out before it starts: parameters, memory by part, tokens, hours."""
