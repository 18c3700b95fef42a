"""The errors a person sees: what is wrong, and what to do about it."""

from __future__ import annotations


class CarlError(Exception):
    """What is wrong, in one sentence; `remedy` says what to do about it."""

    exit_code = 70

    def __init__(self, message: str, *, remedy: str = "", exit_code: int = 0) -> None:
        super().__init__(message)
        self.remedy, self.exit_code = remedy, exit_code or self.exit_code


class UsageError(CarlError):
    """The command line, the spec or the data cannot be used as given."""

    exit_code = 2


class ConfigurationError(CarlError):
    """Credentials or the environment are not what the run needs."""

    exit_code = 4


class RemoteError(CarlError):
    """A service on the other side of the network failed."""

    exit_code = 5
