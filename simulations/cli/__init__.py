"""The command line: `fl-defense`."""
