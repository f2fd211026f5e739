"""A federation that runs: clients, server, engines."""
