"""The kernel settings that pods and routes need: set, looked at again, and put back in the end.

| setting | why |
|---|---|
| nexthop_compat_mode = 0 | an edited group is one notification, not one for each of its routes |
| ignore_routes_with_linkdown = 1 | packets leave dead links at once, not when someone rewrites the route |
| keep_addr_on_down = 1 | IPv6 addresses are still there when the link returns, and so are next hops behind it |
| ip_forward, conf.all.forwarding = 1 | a node carries its pods' packets |
| accept_ra = 2 | a link that has its default route from router advertisements keeps it while the node forwards |
| rp_filter = 2 where it is 1 | with more than one uplink packets come in by another one than their answers leave by |
| neigh gc_thresh1..3 | a cluster on one segment has a neighbour for each node, and the default is 1,024 |

What is right is left alone. What is changed is written down first, with the value it had, in a file that lives as long
as these settings do, until the next boot; `restore` goes by it, and leaves alone what somebody has changed since.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

_HOSTS: Final = Path("/host/proc/sys")
PROC_SYS: Final = _HOSTS if (_HOSTS / "net").is_dir() else Path("/proc/sys")
"""A container sees its /proc/sys read-only: the chart mounts the node's net/ beside it. What is below net/ belongs to
the network namespace of whoever opens it, wherever it is mounted (tests/image/test_image.py)."""
FILE_NAME: Final = "sysctls.json"

_FOR_ROUTES: Final = (  # below net/; a star stands for all, default and every link there is
    ("ipv4/nexthop_compat_mode", "0"),
    ("ipv4/conf/*/ignore_routes_with_linkdown", "1"),
    ("ipv6/conf/*/ignore_routes_with_linkdown", "1"),
    ("ipv6/conf/*/keep_addr_on_down", "1"),
)

_FEWEST_NEIGHBOURS: Final = 256  # that a node has: its pods', in both families
_STRICT, _LOOSE = "1", "2"


class Setting(NamedTuple):
    """A setting, by its path below net/, and the value it is to have, or (`is_least`) to have at least."""

    path: str
    wanted: str
    is_least: bool = False

    @property
    def name(self) -> str:
        """As sysctl(8) writes it: a dot in the name of a link becomes a slash."""
        return "net." + self.path.translate(_SWAPPED)


_SWAPPED: Final = str.maketrans("./", "/.")


class Change(NamedTuple):
    """What was done to a setting."""

    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Report:
    """What was done, by names such as net.ipv4.nexthop_compat_mode."""

    changed: dict[str, str] = field(default_factory=dict)  # name -> the value before
    failed: dict[str, str] = field(default_factory=dict)  # name -> why it is not as it should be


def for_routes(root: Path = PROC_SYS, *, without: Collection[str] = ()) -> Iterator[Setting]:
    """Yield the settings that routes need, for every link there is but those `without` which, by name, it goes."""
    net = root / "net"
    for pattern, wanted in _FOR_ROUTES:
        before, star, after = pattern.partition("*")
        if not star:
            yield Setting(pattern, wanted)
        else:
            links = sorted(each.name for each in (net / before).glob("*") if each.name not in without)
            paths = (f"{before}{link}{after}" for link in links)
            yield from (Setting(path, wanted) for path in paths if (net / path).exists())


def for_pods(
    uplinks: Collection[str], advertised: Collection[str], nodes: int, *, has_ipv6: bool, root: Path = PROC_SYS
) -> Iterator[Setting]:
    """Yield the settings that carrying pods needs. The order matters: forwarding makes advertised routes go.

    `uplinks` are names of links that lead to other nodes, `advertised` of those with routes from router
    advertisements; `nodes` is the size of the cluster.
    """
    if has_ipv6:
        for link in sorted(advertised):
            path = f"ipv6/conf/{link}/accept_ra"
            if _read(root, path) == "1":  # 0: somebody else listens to them, or nobody should
                yield Setting(path, "2")
        yield Setting("ipv6/conf/all/forwarding", "1")
    yield Setting("ipv4/ip_forward", "1")
    for link in sorted(uplinks):
        path = f"ipv4/conf/{link}/rp_filter"
        # The larger of the two counts; loose is larger than strict (Documentation/networking/ip-sysctl.rst).
        if max(_read(root, "ipv4/conf/all/rp_filter"), _read(root, path)) == _STRICT:
            yield Setting(path, _LOOSE)
    yield from _neighbours(nodes, root)


def _neighbours(nodes: int, root: Path) -> Iterator[Setting]:
    room = 1 << (nodes + _FEWEST_NEIGHBOURS - 1).bit_length()
    for version in ("ipv4", "ipv6"):
        for number, factor in ((3, 4), (2, 2), (1, 1)):
            path = f"{version}/neigh/default/gc_thresh{number}"
            if (
                nodes > _FEWEST_NEIGHBOURS and (root / "net" / path).exists()
            ):  # they are the machine's, not a container's
                yield Setting(path, str(room * factor), is_least=True)


def _read(root: Path, path: str) -> str:
    try:
        return (root / "net" / path).read_text(encoding="ascii").strip()
    except OSError:
        return ""


class Sysctls:
    """The settings of this network namespace. `record` is the file of what was changed."""

    def __init__(self, record: Path, root: Path = PROC_SYS) -> None:
        self._record = record
        self._root = root

    def apply(self, settings: Iterable[Setting]) -> Report:
        """Make settings as they should be, as far as the kernel lets us. What fails is a value, not an exception."""
        report = Report()
        wrong: dict[Setting, str] = {}
        for setting in settings:
            try:
                before = (self._root / "net" / setting.path).read_text(encoding="ascii").strip()
            except OSError as error:
                report.failed[setting.name] = error.strerror or str(error)
            else:
                if not _is_right(before, setting):
                    wrong[setting] = before
        try:
            self._write_down(wrong)
        except OSError as error:  # what cannot be undone is not done
            reason = f"{self._record} cannot be written: {error.strerror or error}"
            report.failed.update({setting.name: reason for setting in wrong})
            return report
        for setting, before in wrong.items():
            try:
                (self._root / "net" / setting.path).write_text(setting.wanted, encoding="ascii")
                report.changed[setting.name] = before
            except OSError as error:
                report.failed[setting.name] = error.strerror or str(error)
        return report

    def changed(self) -> dict[str, Change]:
        """Return what was changed since the machine came up, with the value that each setting had first."""
        try:
            content = json.loads(self._record.read_text(encoding="utf-8"))
            return {name: Change(str(each["before"]), str(each["after"])) for name, each in content.items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return {}

    def restore(self) -> tuple[dict[str, str], dict[str, str]]:
        """Put back what was changed, the last first; return settings with their values, and why others are left."""
        restored: dict[str, str] = {}
        left: dict[str, str] = {}
        for name, change in reversed(self.changed().items()):
            path = self._root / name.translate(_SWAPPED)
            try:
                found = path.read_text(encoding="ascii").strip()
                if found == change.after:
                    path.write_text(change.before, encoding="ascii")
                    restored[name] = change.before
                elif found != change.before:
                    left[name] = f"it is {found} now, which somebody else has set"
            except FileNotFoundError:
                continue  # the link is gone, and its settings with it
            except OSError as error:
                left[name] = error.strerror or str(error)
        return restored, left

    def _write_down(self, wrong: Mapping[Setting, str]) -> None:
        """Note what is about to be changed; the first value that a setting had is kept. Raises OSError."""
        if not wrong:
            return
        known = self.changed()
        for setting, before in wrong.items():
            first = known[setting.name].before if setting.name in known else before
            known[setting.name] = Change(first, setting.wanted)
        content: Mapping[str, Mapping[str, str]] = {each: change._asdict() for each, change in known.items()}
        self._record.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{self._record.name}.", dir=self._record.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(content, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(self._record)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def _is_right(found: str, setting: Setting) -> bool:
    if setting.is_least and found.isdecimal():
        return int(found) >= int(setting.wanted)
    return found == setting.wanted
