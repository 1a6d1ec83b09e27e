"""Pure logic: no Twisted, no clock, no randomness, no environment, no sockets (see tests/test_architecture.py)."""
