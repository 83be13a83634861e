"""The memory of the engine: a copy of the rows of live jobs, from which decisions are made.

Owns the public names of the package; live_state.py is the whole, and each other file one part of it. Only turns change
the memory, and it is read from the database at a start.
"""

from stoker.engine.memory.live_state import LiveState, OpenRun, WorkerStatus, awaited, memory_of

__all__ = ["LiveState", "OpenRun", "WorkerStatus", "awaited", "memory_of"]
