"""Answers found step by step: a reward guides what a policy writes next."""
