"""The benchmarks of `make bench`: the budgets of the design, measured as ratios in one run."""
