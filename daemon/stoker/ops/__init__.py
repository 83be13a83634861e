"""What works on the store alone, with no daemon running."""
