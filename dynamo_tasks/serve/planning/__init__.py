"""From a graph and its settings to processes, ports and GPUs."""
