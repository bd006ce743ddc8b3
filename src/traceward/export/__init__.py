"""Rewards and policies as plain models that open without traceward, each with a card that says what it is."""
