"""Settings of the machine and its environment: home, Redis server, TLS, GPUs."""
