"""The daemon and its command line: reads objects, asks `bgp` and `policy`, drives `felix`, reports."""

__version__ = "0.1.0"
