"""What a person did wrong, or must do next, in one line."""


class UserError(Exception):
    """Shown as one line without a stack trace; the message says what to do. `exit_code` is the process's."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code
