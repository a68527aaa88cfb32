"""From a grid of peak learning rates to the optimum and its interval, at every cycle of iterative pruning."""
