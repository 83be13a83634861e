"""The pages, one module for each subject, listed in `tables`."""
