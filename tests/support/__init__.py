"""What tests share; imported as `support` (see `pythonpath` in pyproject.toml)."""
