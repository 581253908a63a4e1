from __future__ import annotations

from tests.felix.conftest import family, node

__all__ = ["family", "node"]
