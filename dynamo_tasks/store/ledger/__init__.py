"""The ledger: one record per request, one verb per transition."""
