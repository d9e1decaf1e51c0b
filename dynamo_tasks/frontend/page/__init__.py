"""The live page at ``/``: what is served, what runs, and a playground."""
