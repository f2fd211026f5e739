"""What is decided about one round's aggregate; knows nothing of Flower."""
