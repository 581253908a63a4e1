"""`exabgp validate FILE`, without asking DNS. Run as a program, never imported by the agent.

Being imported, ExaBGP has the resolver say what this host is called in full, for a capability that nobody configures.
Where DNS does not answer, as on a node that is to get its routes by BGP first, that takes ten seconds for each server
in resolv.conf: before every change of sessions, and before ExaBGP itself starts (server.py does the same).
"""

# ruff: noqa: E402  # ExaBGP is imported when what it shall not do is taken away

from __future__ import annotations

import socket

socket.getfqdn = lambda name="": name or socket.gethostname()

from exabgp.application.validate import main

if __name__ == "__main__":
    main()
