"""Settings of all tests."""

from __future__ import annotations

import os

# Names outside the telemetry catalogue are errors, in child processes too.
os.environ["DYNAMO_STRICT_TELEMETRY"] = "1"
