"""Parts of all commands: options, values, the connection, rendering (render.py is the one place that prints)."""
