"""The forward-only SQL files that make the database; read through importlib.resources."""
