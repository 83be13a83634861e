"""`stoker doctor`: named checks of a state and of its host, and the repairs that are safe."""
