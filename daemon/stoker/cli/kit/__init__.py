"""What the commands share: options, values, the connection, rendering (render.py is the one place that prints)."""
