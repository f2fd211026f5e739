"""The only room that imports Flower: the strategy, its replies and its checkpoints."""
