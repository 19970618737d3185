"""`pizero serve`: a checkpoint's policy over a websocket, for robots and simulators elsewhere."""

import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from pizero.command.parse import parse


@dataclass(frozen=True)
class Serve:
    """Serve the policy of a checkpoint until Ctrl-C; `pizero eval ws://HOST:PORT` and openpi's clients connect to it.

    There is no password: whoever reaches the port can ask the policy.
    """

    checkpoint: Positional[Path]
    """Folder of a checkpoint."""
    host: str = "127.0.0.1"
    """Address to listen at: 127.0.0.1 is this machine only, 0.0.0.0 all of its networks."""
    port: int = 8000
    """Port to listen at. 0: a free one, which is printed."""
    robot: str | None = None
    """Name of the robot, of a checkpoint that was trained on several. None: the first."""
    num_steps: int = 10
    """Euler steps per chunk."""
    device: str = "auto"
    """"cpu", "cuda", "cuda:1" ...; "auto" is cuda where there is one."""
    compile: bool = True
    """On CUDA, compile the policy; a small one starts faster without."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; its exit code."""
    args = parse(Serve, "serve", arguments)
    if not 0 <= args.port < 2**16:
        raise ValueError(f"port is {args.port}, must be in 0 ... {2**16 - 1}")
    # how containers and process managers end a program; to stop cleanly then too
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    from pizero.command.policy import open_policy
    from pizero.serve.server import PolicyServer

    try:
        with open_policy(str(args.checkpoint), args.device, args.num_steps, args.robot, args.compile) as opened:
            about = {key: str(value) for key, value in opened.identity.items()} | {"checkpoint": opened.name}
            with PolicyServer(opened.policy, args.host, args.port, about) as server:
                robot = opened.policy.embodiment.name
                print(f"serving {args.checkpoint} for {robot} at {server.address}", file=sys.stderr, flush=True)
                server.wait()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    return 0
