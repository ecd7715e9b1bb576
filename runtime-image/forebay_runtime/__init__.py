"""The runtime: leases invocations, enforces deadlines, returns results."""
