"""The data that crosses a process boundary: names, states, events, payloads. No I/O, no other layer."""
