"""The errors a person sees: what is wrong, and what to do about it."""

from __future__ import annotations


class CarlError(Exception):
    """Base of every error raised on purpose.

    Args:
        message: What is wrong and where, in one sentence.
        remedy: What the reader can do about it.
        exit_code: The process exit code; the class decides it by default.
    """

    exit_code = 70

    def __init__(
        self, message: str, *, remedy: str = "", exit_code: int | None = None
    ) -> None:
        super().__init__(message)
        self.remedy = remedy
        if exit_code is not None:
            self.exit_code = exit_code


class UsageError(CarlError):
    """The command line, the spec or the data cannot be used as given."""

    exit_code = 2


class ConfigurationError(CarlError):
    """Credentials or the environment are not what the run needs."""

    exit_code = 4


class RemoteError(CarlError):
    """A service on the other side of the network failed."""

    exit_code = 5
