"""Simulated federations under attack, and the command line. Built on `fl_defense`."""
