"""A stock Flower PyTorch project."""
