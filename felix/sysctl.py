"""The kernel settings that routes need, and whether they took. Each is read first: what is right is left alone.

| setting | why |
|---|---|
| nexthop_compat_mode = 0 | an edited group is one notification, not one for each of its routes |
| ignore_routes_with_linkdown = 1 | packets leave dead links at once, not when someone rewrites the route |
| keep_addr_on_down = 1 | IPv6 addresses are still there when the link returns, and so are next hops behind it |
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_HOSTS: Final = Path("/host/proc/sys")
PROC_SYS: Final = _HOSTS if (_HOSTS / "net").is_dir() else Path("/proc/sys")
"""Where settings are. A container sees /proc/sys read-only; the chart mounts the host's net/ beside it, and what is
below net/ belongs to the network namespace of whoever opens it, wherever it is mounted."""

_SETTINGS: Final = (  # below net/; a star stands for all, default and every link there is
    ("ipv4/nexthop_compat_mode", "0"),
    ("ipv4/conf/*/ignore_routes_with_linkdown", "1"),
    ("ipv6/conf/*/ignore_routes_with_linkdown", "1"),
    ("ipv6/conf/*/keep_addr_on_down", "1"),
)


@dataclass(frozen=True, slots=True)
class Report:
    """What was done, by names such as net.ipv4.nexthop_compat_mode."""

    changed: dict[str, str] = field(default_factory=dict)  # name -> the value before
    failed: dict[str, str] = field(default_factory=dict)  # name -> why it is not as it should be


def prepare_for_routes(root: Path = PROC_SYS) -> Report:
    """Make this network namespace fit for our routes, as far as it lets us. What fails is a value, not an exception."""
    report = Report()
    for pattern, wanted in _SETTINGS:
        paths = sorted((root / "net").glob(pattern)) if "*" in pattern else [root / "net" / pattern]
        for path in paths:
            # As sysctl(8) writes it: a dot in the name of a link becomes a slash.
            name = ".".join(part.replace(".", "/") for part in path.relative_to(root).parts)
            try:
                before = path.read_text(encoding="ascii").strip()
                if before != wanted:
                    path.write_text(wanted, encoding="ascii")
                    report.changed[name] = before
            except OSError as error:
                report.failed[name] = error.strerror or str(error)
    return report
