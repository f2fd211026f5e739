"""What is measured of a run, written down, summed up and drawn."""
