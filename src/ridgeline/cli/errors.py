"""How a command ends when it cannot do its work."""


class CommandFailed(Exception):
    """The command's work failed: printed as one sentence, exit code 1.

    The text says what happened, with the value at fault, and what to do about it.
    """
