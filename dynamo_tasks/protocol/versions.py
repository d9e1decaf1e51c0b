"""Protocol versions, so that two releases can share one Redis server (see ``docs/upgrading.md``).

What crosses a process is read leniently: unknown fields and unknown kinds of events are passed over. Where that is
not enough, a request says which version its worker must speak, and older workers leave it to newer ones.
"""

from __future__ import annotations

__all__ = ["NEEDED", "PROTOCOL"]

PROTOCOL = 1
"""The version that this release speaks: written into registrations and stated at each claim."""
NEEDED = 1
"""The version that a request needs of the worker that claims it, unless it uses something newer; written into its
record."""
