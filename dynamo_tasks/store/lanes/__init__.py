"""Several servers: which of them a request lives on, and the verbs that ask the right one (docs/lanes.md)."""
