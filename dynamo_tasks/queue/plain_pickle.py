"""Results of an application that pickles them, read as plain data.

Such an application trusts its Redis. A worker of ours does not: it reads numbers, texts, bytes, lists and mappings,
which need no code, and refuses the rest. It writes pickles as the application's settings say.
"""

from __future__ import annotations

import io
import pickle
from typing import Any, NoReturn

from kombu.serialization import register
from kombu.utils.encoding import str_to_bytes

__all__ = ["PICKLE", "load_plain", "read_plain_only"]

PICKLE = "application/x-python-serialize"


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> NoReturn:
        """Called for whatever would need code."""
        raise pickle.UnpicklingError(
            f"{module}.{name}: a dynamo-tasks worker reads plain data only from a pickled result"
        )


def load_plain(data: bytes | str) -> Any:
    """The value of a pickle.

    Raises:
        pickle.UnpicklingError: it holds more than plain data.
    """
    return _Plain(io.BytesIO(str_to_bytes(data))).load()


def read_plain_only() -> None:
    """From here on, nothing in this process that reads a pickle of a message or a result runs code of it."""
    register("pickle", pickle.dumps, load_plain, content_type=PICKLE, content_encoding="binary")
