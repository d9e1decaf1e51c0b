"""Background actors of a process: recovery, sweeping, health, the system port."""
