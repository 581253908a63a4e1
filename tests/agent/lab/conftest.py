from __future__ import annotations

from tests.lab import apply, lab, pytest_runtest_makereport

__all__ = ["apply", "lab", "pytest_runtest_makereport"]
