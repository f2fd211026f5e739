"""What a server knows of a network, and does with one. Needs torch alone."""
