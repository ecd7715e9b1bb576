"""The ends of async events on their way to the destinations that functions name: docs/destinations.md."""
