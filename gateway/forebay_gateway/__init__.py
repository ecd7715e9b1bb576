"""The gateway: takes HTTP, writes invocations into Redis, answers from replies."""
