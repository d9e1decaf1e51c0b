"""Forms of ``POST /v1/files``, checked."""

from __future__ import annotations

from msgspec import Struct

from dynamo_tasks.errors import InvalidRequestError

__all__ = ["LONGEST", "PURPOSES", "SHORTEST", "UploadFields", "check_lifetime"]

_ASKED = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
PURPOSES = (*_ASKED, "batch_output")
"""Purposes that files may have."""
SHORTEST, LONGEST = 3600, 2_592_000
"""Seconds after which a file may expire: an hour, 30 days."""
_ANCHOR, _SECONDS = "expires_after[anchor]", "expires_after[seconds]"


class UploadFields(Struct):
    """The fields of an upload beside its file.

    Attributes:
        purpose: What the file is for.
        anchor: What its lifetime counts from: ``created_at``.
        seconds: Its lifetime; ``None`` = for good.
    """

    purpose: str = ""
    anchor: str = ""
    seconds: int | None = None

    def take(self, name: str, text: str) -> None:
        """Take one field.

        Raises:
            InvalidRequestError: It is not known, or not valid.
        """
        if name == "purpose":
            if text not in _ASKED:
                raise InvalidRequestError(
                    f"purpose must be one of {', '.join(_ASKED)}, not {text!r:.60}", param="purpose"
                )
            self.purpose = text
        elif name == _ANCHOR:
            self.anchor = text
        elif name == _SECONDS:
            digits = text.isascii() and text.isdecimal() and len(text) < 12
            self.seconds = check_lifetime(int(text) if digits else -1, _SECONDS)
        else:
            known = f"file, purpose, {_ANCHOR}, {_SECONDS}"
            raise InvalidRequestError(f"unknown field {name!r:.60}; known: {known}", param=name[:100])

    def check(self) -> None:
        """Refuse a form that has not all that it needs.

        Raises:
            InvalidRequestError: names what is missing.
        """
        if not self.purpose:
            raise InvalidRequestError(f"purpose is missing; one of {', '.join(_ASKED)}", param="purpose")
        if (self.anchor or self.seconds is not None) and (
            self.anchor != "created_at" or self.seconds is None
        ):
            raise InvalidRequestError(
                "expires_after needs anchor, which is created_at, and seconds", param="expires_after"
            )


def check_lifetime(seconds: int, param: str) -> int:
    """Refuse a lifetime of a file that is not one.

    Raises:
        InvalidRequestError: says what is allowed.
    """
    if not SHORTEST <= seconds <= LONGEST:
        raise InvalidRequestError(
            f"{param} must be a whole number of seconds from {SHORTEST} to {LONGEST}", param=param
        )
    return seconds
