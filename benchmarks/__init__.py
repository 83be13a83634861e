"""What `make bench` runs: the budgets of the design, measured as ratios in one run."""
