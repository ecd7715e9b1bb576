"""The controller on Kubernetes: everything that talks to its API."""
