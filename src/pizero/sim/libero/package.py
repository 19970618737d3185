"""Imports robosuite and LIBERO, without the questions, downloads and messages that come with it."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from pizero.sim.env import SimulatorUnavailableError
from pizero.sim.libero.assets import config_folder, unavailable
from pizero.sim.mujoco_renderer import choose_egl, egl_missing


def import_libero(assets: Path) -> tuple[ModuleType, ModuleType, ModuleType]:
    """The modules mujoco, robosuite and libero.libero.envs.bddl_base_domain, which finds its files in `assets`.

    SimulatorUnavailableError when a package is missing or does not run here.
    """
    choose_egl()
    # robosuite warns at each import that nobody has written it a file of private settings
    logging.getLogger("robosuite_logs").setLevel(logging.ERROR)
    try:
        # standard output is for results
        with _config_path(str(config_folder())), contextlib.redirect_stdout(sys.stderr):
            import libero.libero
            import libero.libero.envs
            import libero.libero.envs.bddl_base_domain as domain
            import mujoco
            import robosuite
    except ModuleNotFoundError as error:
        raise unavailable(str(error)) from error
    except PermissionError as error:
        message = f"robosuite cannot write its log file ({error}): remove the file, which another user owns"
        raise SimulatorUnavailableError(message) from error
    except (ImportError, AttributeError, OSError) as error:
        raise egl_missing(error) from error
    # It keeps the place of its assets here; without it, it looks into its own package and then downloads.
    libero.libero._assets_path_cache = str(assets)
    return mujoco, robosuite, domain


@contextlib.contextmanager
def _config_path(folder: str) -> Iterator[None]:
    """LIBERO reads this variable when it is imported; other processes are to see the user's own."""
    before = os.environ.get("LIBERO_CONFIG_PATH")
    os.environ["LIBERO_CONFIG_PATH"] = folder
    try:
        yield
    finally:
        if before is None:
            del os.environ["LIBERO_CONFIG_PATH"]
        else:
            os.environ["LIBERO_CONFIG_PATH"] = before
