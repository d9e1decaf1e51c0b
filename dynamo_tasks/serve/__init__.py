"""The command line, the process supervisor and the embedded server."""
