"""A policy over a websocket, both ends. Raises ValueError where the packages of the extra `serve` are missing."""

try:
    import msgpack  # noqa: F401
    import websockets  # noqa: F401
except ImportError as error:
    raise ValueError(
        f"a policy over the network needs websockets and msgpack ({error}): pip install 'pizero[serve]'"
    ) from error
