"""LIBERO's tasks by name. A table: imports no simulator.

Order, names and instructions are those of the package's benchmark (libero/libero/benchmark/libero_suite_task_map.py),
steps are openpi's (examples/libero/main.py), which stops an episode at its first success.
"""

from pizero.sim.env import Task

NUM_STATES = 50
"""Initial states that the benchmark prescribes for each task."""

_MAX_STEPS = {"libero-spatial": 220, "libero-object": 280, "libero-goal": 300, "libero-10": 520}

_PROMPTS = {
    "libero-spatial": (
        "pick up the black bowl between the plate and the ramekin and place it on the plate",
        "pick up the black bowl next to the ramekin and place it on the plate",
        "pick up the black bowl from table center and place it on the plate",
        "pick up the black bowl on the cookie box and place it on the plate",
        "pick up the black bowl in the top drawer of the wooden cabinet and place it on the plate",
        "pick up the black bowl on the ramekin and place it on the plate",
        "pick up the black bowl next to the cookie box and place it on the plate",
        "pick up the black bowl on the stove and place it on the plate",
        "pick up the black bowl next to the plate and place it on the plate",
        "pick up the black bowl on the wooden cabinet and place it on the plate",
    ),
    "libero-object": (
        "pick up the alphabet soup and place it in the basket",
        "pick up the cream cheese and place it in the basket",
        "pick up the salad dressing and place it in the basket",
        "pick up the bbq sauce and place it in the basket",
        "pick up the ketchup and place it in the basket",
        "pick up the tomato sauce and place it in the basket",
        "pick up the butter and place it in the basket",
        "pick up the milk and place it in the basket",
        "pick up the chocolate pudding and place it in the basket",
        "pick up the orange juice and place it in the basket",
    ),
    "libero-goal": (
        "open the middle drawer of the cabinet",
        "put the bowl on the stove",
        "put the wine bottle on top of the cabinet",
        "open the top drawer and put the bowl inside",
        "put the bowl on top of the cabinet",
        "push the plate to the front of the stove",
        "put the cream cheese in the bowl",
        "turn on the stove",
        "put the bowl on the plate",
        "put the wine bottle on the rack",
    ),
    "libero-10": (
        "put both the alphabet soup and the tomato sauce in the basket",
        "put both the cream cheese box and the butter in the basket",
        "turn on the stove and put the moka pot on it",
        "put the black bowl in the bottom drawer of the cabinet and close it",
        "put the white mug on the left plate and put the yellow and white mug on the right plate",
        "pick up the book and place it in the back compartment of the caddy",
        "put the white mug on the plate and put the chocolate pudding to the right of the plate",
        "put both the alphabet soup and the cream cheese box in the basket",
        "put both moka pots on the stove",
        "put the yellow and white mug in the microwave and close it",
    ),
}

_SCENES = (
    *("LIVING_ROOM_SCENE2", "LIVING_ROOM_SCENE2", "KITCHEN_SCENE3", "KITCHEN_SCENE4", "LIVING_ROOM_SCENE5"),
    *("STUDY_SCENE1", "LIVING_ROOM_SCENE6", "LIVING_ROOM_SCENE1", "KITCHEN_SCENE8", "KITCHEN_SCENE6"),
)
"""Of the tasks of libero-10, in order. The other suites have one scene each, and their files do not name it."""

TASKS: dict[str, Task] = {
    f"{suite}/{number}": Task(f"{suite}/{number}", prompt, _MAX_STEPS[suite], NUM_STATES)
    for suite, prompts in _PROMPTS.items()
    for number, prompt in enumerate(prompts)
}
"""All tasks by name; the number is the benchmark's task id. Control steps at 20 Hz."""


def file_stem(task: Task) -> str:
    """Path of a task's files below LIBERO's folders of them, without ending: "libero_spatial/pick_up_the_..."."""
    suite, number = task.name.split("/")
    scene = _SCENES[int(number)] + "_" if suite == "libero-10" else ""
    return f"{suite.replace('-', '_')}/{scene}{task.prompt.replace(' ', '_')}"
