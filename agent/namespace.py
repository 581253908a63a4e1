"""The namespace that everything of ours is in, unless somebody says otherwise.

On its own, since the command line needs it at once, and what objects are made of takes time to import.
"""

from typing import Final

OWN_NAMESPACE: Final = "tortie-system"
"""Where the agents' pods are, where Secrets are read from, and where one is that names no namespace."""
