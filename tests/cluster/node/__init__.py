"""A one-node Kubernetes from real components, for tests on a machine that has no cluster.

`python -m tests.cluster.node up` brings it up, `down` removes it without a trace. Standard library only.
"""
