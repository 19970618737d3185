"""The film of an episode: what the policy sees, beside what it plans and does."""

from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from pizero.frame import Frame
from pizero.sim.chunk_plot import ActionLog, draw_chunks
from pizero.sim.env import Env
from pizero.sim.schedule import Job
from pizero.sim.video import write_strip, write_video

VIEW_SIZE = 256
"""Pixels of the first camera's view, both ways; the height of the film."""
FURTHER_VIEW_SIZE = 128
"""Pixels of the view of each further camera, both ways."""
PLOT_WIDTH = 320
"""Pixels."""
MOST_FPS = 20
"""Pictures a second when played, at most."""
HASTE = 2
"""A slow robot is shown so many times faster than it is."""
STEPS_PER_SECOND = 40
"""Control steps that pass in a second of a film, at most: a faster robot is shown in slow motion, skipping steps."""

View = UInt8[np.ndarray, "size size 3"]
Picture = UInt8[np.ndarray, "h w 3"]


def film_stem(folder: Path, job: Job) -> Path:
    """Path of a job's film, without outcome and ending: `<folder>/<task>-<episode>`, with "-" for "/"."""
    return folder / f"{job.task.replace('/', '-')}-{job.episode:03d}"


def film_path(stem: Path, success: bool) -> Path:
    """Path of a film, which says how the episode ended: `<stem>-solved.mp4` or `<stem>-failed.mp4`."""
    return stem.with_name(f"{stem.name}-{'solved' if success else 'failed'}.mp4")


class EpisodeFilm:
    """Collects the pictures and actions of one episode; drawn and written when it is over."""

    def __init__(self, env: Env, job: Job) -> None:
        assert job.film is not None, "only jobs that say where are filmed"
        self._env, self._job, self._stem = env, job, job.film
        rate = env.embodiment.control_rate_hz
        self._every = 1 if rate is None else max(1, round(rate / STEPS_PER_SECOND))
        self._fps = MOST_FPS if rate is None else min(MOST_FPS, max(2, round(HASTE * rate)))
        self._pictures: list[tuple[int, View]] = []  # with the control step before which it was taken
        self._executed: list[Float32[np.ndarray, " a"]] = []
        self._starts: list[int] = []
        self._chunks: list[Float32[np.ndarray, "t a"]] = []
        self._further: list[Picture] = []

    def plan(self, frame: Frame, chunk: Float32[np.ndarray, "t a"]) -> None:
        """The policy saw `frame` and planned `chunk`."""
        self._starts.append(len(self._executed))
        self._chunks.append(chunk)
        self._further.append(_further_views(frame, self._env.embodiment.cameras[1:]))

    def look(self, action: Float32[np.ndarray, " a"]) -> None:
        """`action` is about to be executed."""
        step = len(self._executed)
        if step % self._every == 0:
            self._pictures.append((step, self._env.picture(VIEW_SIZE)))
        self._executed.append(action)

    def write(self, success: bool) -> Path:
        """Writes the film, and beside it a strip of stills of the first camera (.png); the film's path."""
        path = film_path(self._stem, success)
        log = ActionLog(
            self._env.embodiment.actions, np.array(self._executed), tuple(self._starts), tuple(self._chunks)
        )
        outcome = "solved" if success else "not solved"
        last = self._env.picture(VIEW_SIZE)
        end = self._drawn(log, len(self._executed), last, outcome)
        pictures = [self._drawn(log, step, picture, "") for step, picture in self._pictures]
        half_a_second = self._fps // 2
        write_video(path, [*pictures, *[end] * half_a_second], self._fps)
        write_strip(path.with_suffix(".png"), [*(picture for _, picture in self._pictures), last])
        return path

    def _drawn(self, log: ActionLog, step: int, view: View, outcome: str) -> Picture:
        plan = log.plan_at(step)
        said = f"step {step} of at most {self._job.max_steps}, plan {plan + 1}{', ' if outcome else ''}{outcome}"
        plot = draw_chunks(log, step, (self._job.prompt, said), PLOT_WIDTH, VIEW_SIZE)
        return np.concatenate([view, self._further[plan], plot], axis=1)


def _further_views(frame: Frame, cameras: tuple[str, ...]) -> Picture:
    """The views of those cameras, small, from top to bottom and then to the right; without width if there are none."""
    per_column = VIEW_SIZE // FURTHER_VIEW_SIZE
    columns = -(-len(cameras) // per_column)
    picture = np.zeros((VIEW_SIZE, columns * FURTHER_VIEW_SIZE, 3), np.uint8)
    for number, camera in enumerate(cameras):
        if camera not in frame.images:
            continue  # absent: its place stays black
        small = Image.fromarray(frame.images[camera]).resize((FURTHER_VIEW_SIZE, FURTHER_VIEW_SIZE))
        top, left = number % per_column * FURTHER_VIEW_SIZE, number // per_column * FURTHER_VIEW_SIZE
        picture[top : top + FURTHER_VIEW_SIZE, left : left + FURTHER_VIEW_SIZE] = np.asarray(small)
    return picture
