from __future__ import annotations

from tests.felix.conftest import node

__all__ = ["node"]
