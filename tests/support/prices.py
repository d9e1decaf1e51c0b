"""The table of what a chat costs: measured, and how far it may grow. It is that of docs/performance.md."""

from __future__ import annotations

from tests.support.counting import Costs

__all__ = ["CASES", "PRICES", "grown", "page_table", "shrunk"]

CASES = ("1 token", "64 tokens", "1 token, API key")
"""Chats at c=1 on the mocker; the tokens of the second come 3 ms apart, so that each is written by itself."""
GROWTH = 1.05
SHRINKAGE = 0.8
"""A table that is further from the truth is to be mended, also where all is well."""

PRICES: dict[str, tuple[int, int, int]] = {
    "redis scripts": (4, 4, 4),
    "redis commands": (50, 298, 52),
    "redis bytes in": (3127, 20788, 3351),
    "redis bytes out": (1777, 12987, 1923),
    "frontend calls": (632, 2732, 684),
    "frontend engines": (38, 38, 38),
    "frontend frontend": (172, 733, 187),
    "frontend libraries": (252, 713, 269),
    "frontend protocol": (48, 296, 63),
    "frontend store": (93, 923, 90),
    "worker calls": (934, 6613, 941),
    "worker engines": (99, 1340, 99),
    "worker libraries": (497, 2106, 497),
    "worker protocol": (21, 282, 28),
    "worker queue": (193, 508, 193),
    "worker services": (9, 135, 9),
    "worker store": (93, 2220, 93),
}


def grown(case: str, costs: Costs) -> list[str]:
    """What costs more than the table allows, a line each."""
    column = CASES.index(case)
    return [
        f"{case}: {name} {costs.get(name, 0):.0f}, was {row[column]}"
        for name, row in PRICES.items()
        if costs.get(name, 0) > row[column] * GROWTH + _slack(name, case)
    ]


def shrunk(case: str, costs: Costs) -> list[str]:
    """What costs so much less that the table is no longer true; of long requests a busy machine makes fewer writes."""
    column = CASES.index(case)
    if case == CASES[1]:
        return []
    return [
        f"{case}: {name} {costs.get(name, 0):.0f}, was {row[column]}"
        for name, row in PRICES.items()
        if costs.get(name, 0) < row[column] * SHRINKAGE - _slack(name, case)
    ]


def _slack(name: str, case: str) -> float:
    """Room for what shared connections do beside a request: some in long ones, next to none in short ones."""
    return 0.0 if name.startswith("redis") else 40.0 if case == CASES[1] else 6.0


def page_table() -> str:
    """The table as docs/performance.md holds it; the last column is (64 tokens − 1 token) / 63."""
    lines = [f"| counted | {' | '.join(CASES)} | per token |", "|---|---|---|---|---|"]
    for name, row in PRICES.items():
        lines.append(f"| {name} | {' | '.join(map(str, row))} | {(row[1] - row[0]) / 63:.1f} |")
    return "\n".join(lines)
