"""A Flower app of the usual kind, to measure what a round costs beside the training."""
