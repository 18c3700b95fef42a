"""What huggingface_hub and hf_xet raise, in our errors."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import Any

from carl_bundle.errors import CarlError, ConfigurationError, RemoteError, UsageError

LONGEST_WAIT = 30.0  # seconds that a server may ask us to wait at once
TOKEN = "export HF_TOKEN with a token that may write, or run `hf auth login`"


class MissingError(UsageError):
    """There is no such thing."""


@contextlib.contextmanager
def speaking(secrets: Iterable[str] = ()) -> Iterator[None]:
    """Turn what goes wrong into our errors; the values of `secrets` do not show."""
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        HFValidationError,
        HTTPError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
    )

    try:
        yield
    except CarlError:
        raise
    except OfflineModeIsEnabled:
        remedy = "unset HF_HUB_OFFLINE"
        raise ConfigurationError("HF_HUB_OFFLINE is set", remedy=remedy) from None
    except LocalTokenNotFoundError:
        raise ConfigurationError("there is no token", remedy=TOKEN) from None
    except HFValidationError as error:
        raise UsageError(str(error), remedy="write hf:FLAVOR@NAMESPACE") from error
    except (HTTPError, OSError, RuntimeError) as error:
        # Not chained: an error may quote the request.
        raise _ours(error, list(secrets)) from None
    except (KeyError, TypeError, ValueError) as error:
        text = f"Hugging Face answered what is not understood: {error!r}"
        raise RemoteError(_hidden(text, secrets), remedy="try again") from None


def _ours(error: Any, secrets: list[str]) -> CarlError:
    """The error for an answer, or for the lack of one."""
    answer: Any = getattr(error, "response", None)
    status = None if answer is None else answer.status_code
    text = getattr(error, "server_message", None) or str(error) or repr(error)
    said = f"Hugging Face: {_hidden(text, secrets).strip()}"
    if status == 401:
        return ConfigurationError(said, remedy=TOKEN)
    if status == 402:
        return ConfigurationError(said, remedy="add credit to the account")
    if status == 403:
        remedy = "use a token that may run jobs there, or another @NAMESPACE"
        return ConfigurationError(said, remedy=remedy)
    if status == 404:
        return MissingError(said, remedy="see that flavor and @NAMESPACE exist")
    if status is not None and 400 <= status < 500 and status not in (408, 429):
        return UsageError(said, remedy="carl train --dry-run shows the request")
    if status == 429:
        asked = answer.headers.get("Retry-After", "")
        time.sleep(min(float(asked) if asked.isdigit() else 1.0, LONGEST_WAIT))
    return RemoteError(said, remedy="try again: nothing is done twice")


def _hidden(text: str, secrets: Iterable[str]) -> str:
    for value in filter(None, secrets):
        text = text.replace(value, "***")
    return text
