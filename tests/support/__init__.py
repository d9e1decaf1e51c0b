"""What tests of several kinds share: a real server, real processes, named faults."""
