"""A release beside the one before it: `make test-upgrade`."""
