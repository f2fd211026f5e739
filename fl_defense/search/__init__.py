"""Data-free search for triggers in a network. A family of patterns is one file."""
