"""The Redis server: keys, scripts, ledger, logs, leases. The only importer of redis."""
