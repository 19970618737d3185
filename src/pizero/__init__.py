"""pi0 in readable PyTorch: load every checkpoint family, train, evaluate in simulators, drive a robot."""

__version__ = "0.1.0"
