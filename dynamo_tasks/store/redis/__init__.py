"""One Redis server: its address, connections, wire, scripts, and what it refuses."""
