"""The alternation: a discriminator that learns against a policy, and a policy that learns from its reward."""
