"""Tells ``twistd`` of the ``ccrelay`` command. Every twistd on the host loads this file: it imports nothing heavy."""

from twisted.application.service import ServiceMaker

relay = ServiceMaker(
    "ccrelay",
    "ccrelay.tap",
    "A streaming relay between Anthropic Messages clients and their providers.",
    "ccrelay",
)
