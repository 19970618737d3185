"""LIBERO's tasks by name. A table: imports no simulator."""

from pizero.sim.env import Task

TASKS: dict[str, Task] = {}
