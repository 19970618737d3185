"""SimplerEnv's Bridge tasks (visual matching) by name. A table: imports no simulator."""

from pizero.sim.env import Task

TASKS = {
    task.name: task
    for task in (
        Task("simpler/carrot-on-plate", "put carrot on plate", 60, 24),
        Task("simpler/spoon-on-towel", "put the spoon on the towel", 60, 24),
        Task("simpler/stack-cube", "stack the green block on the yellow block", 60, 24),
        Task("simpler/eggplant-in-basket", "put eggplant into yellow basket", 120, 24),
    )
}
"""Control steps at 5 Hz, instructions and the number of prescribed states are SimplerEnv's."""
