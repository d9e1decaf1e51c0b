"""``python -m dynamo_tasks.observe`` prints ``docs/telemetry.md``."""

from __future__ import annotations

import sys

from dynamo_tasks.observe.markdown import telemetry_markdown

__all__: list[str] = []

sys.stdout.write(telemetry_markdown())
