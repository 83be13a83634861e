"""Commands that work on the store itself and need no daemon."""
