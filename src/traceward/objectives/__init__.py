"""The equations: pure functions of tensors, without configuration, files or models."""
