"""The handlers' program: runs the user's code; standard library only, shares a Unix socket with the runtime."""
