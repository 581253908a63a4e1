from __future__ import annotations

from tests.lab import apply, family, lab, pytest_runtest_makereport

__all__ = ["apply", "family", "lab", "pytest_runtest_makereport"]
