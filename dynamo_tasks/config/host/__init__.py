"""What the machine and its environment say: home, server, TLS, GPUs."""
