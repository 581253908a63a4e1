# ruff: noqa: ASYNC240 - the hand that edits files here may hold the loop for a moment
from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from agent.datastore import directory as module
from agent.datastore.directory import DirectoryDatastore, read_directory
from agent.datastore.manifest_directory import LAST_GOOD
from agent.objects import BGPPeer
from tests.agent.datastore.following import DEADLINE_S, Follower

Start: TypeAlias = Callable[..., Awaitable[Follower]]
NEVER_S = 3600.0


def peer(name: str, asn: object = 65100) -> str:
    return f"""\
apiVersion: tortie.dev/v1alpha1
kind: BGPPeer
metadata: {{name: {name}}}
spec: {{peer: {{address: 172.16.1.1}}, peerASN: {asn}}}
"""


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    path = tmp_path / "manifests"
    path.mkdir()
    return path


@pytest.fixture
async def start(manifests: Path) -> AsyncIterator[Start]:
    """Start a datastore that looks only when inotify says so, unless told otherwise."""
    stores: list[DirectoryDatastore] = []

    async def start(*, rescan_s: float = NEVER_S, wait: bool = True) -> Follower:
        store = DirectoryDatastore(manifests, rescan_s=rescan_s, retry_s=0.05)
        stores.append(store)
        await store.start()
        follower = Follower(store)
        if wait:
            await follower.until_synced()
        return follower

    yield start
    for store in stores:
        await store.stop()


def asns(follower: Follower) -> dict[str, object]:
    return {key.name: item.spec.peer_asn for key, item in follower.objects.items() if isinstance(item, BGPPeer)}


async def test_an_edit_in_place_is_seen(manifests: Path, start: Start) -> None:
    (manifests / "a.yaml").write_text(peer("x", 1))
    follower = await start()

    (manifests / "a.yaml").write_text(peer("x", 2))

    await follower.until(lambda: asns(follower) == {"x": 2})


async def test_an_editor_that_writes_beside_and_renames_is_seen(manifests: Path, start: Start) -> None:
    (manifests / "a.yaml").write_text(peer("x", 1))
    follower = await start()

    (manifests / ".a.yaml.swp").write_text(peer("x", 2))
    (manifests / ".a.yaml.swp").rename(manifests / "a.yaml")

    await follower.until(lambda: asns(follower) == {"x": 2})


async def test_new_files_in_new_directories_are_seen(manifests: Path, start: Start) -> None:
    follower = await start()

    (manifests / "sub" / "deeper").mkdir(parents=True)
    (manifests / "sub" / "deeper" / "a.yaml").write_text(peer("x", 1))
    await follower.until(lambda: asns(follower) == {"x": 1})

    (manifests / "sub" / "deeper" / "a.yaml").write_text(peer("x", 2))
    await follower.until(lambda: asns(follower) == {"x": 2})

    shutil.rmtree(manifests / "sub")
    await follower.until(lambda: asns(follower) == {})


async def test_a_half_written_file_harms_nobody(manifests: Path, start: Start) -> None:
    (manifests / "a.yaml").write_text(peer("x", 1) + "---\n" + peer("y", 1))
    follower = await start()

    (manifests / "a.yaml").write_text((peer("x", 2) + "---\n" + peer("y", 2))[:-60])
    await follower.until(lambda: bool(follower.problems))
    assert asns(follower) == {"x": 1, "y": 1}
    assert follower.messages == ["a.yaml:8: not YAML: a ':' is missing. What the file said before stays in force."]

    (manifests / "a.yaml").write_text(peer("x", 2) + "---\n" + peer("y", 2))
    await follower.until(lambda: asns(follower) == {"x": 2, "y": 2})
    assert follower.problems == ()


async def test_a_save_that_empties_the_file_first_deletes_nothing(manifests: Path, start: Start) -> None:
    (manifests / "a.yaml").write_text(peer("x", 1))
    follower = await start()

    (manifests / "a.yaml").write_text("")
    await follower.until(lambda: bool(follower.problems))
    assert asns(follower) == {"x": 1}

    (manifests / "a.yaml").write_text(peer("x", 2))
    await follower.until(lambda: asns(follower) == {"x": 2})


async def test_a_bad_object_is_reported_and_its_mending_too(manifests: Path, start: Start) -> None:
    (manifests / "a.yaml").write_text(peer("x", 1))
    follower = await start()

    (manifests / "a.yaml").write_text(peer("x", 4294967296))
    await follower.until(lambda: bool(follower.problems))
    assert asns(follower) == {"x": 1}
    assert follower.messages == [
        f"a.yaml:4: BGPPeer x: spec.peerASN: 4294967296 is not an AS number (1 to 4294967295). {LAST_GOOD}"
    ]

    (manifests / "a.yaml").write_text(peer("x", 1))
    await follower.until(lambda: not follower.problems)
    assert [key.name for key in follower.news] == ["x"]


async def test_the_links_of_a_config_map_are_followed_as_they_are_swapped(manifests: Path, start: Start) -> None:
    def mount(version: str, asn: int) -> None:
        (manifests / f"..{version}").mkdir()
        (manifests / f"..{version}" / "a.yaml").write_text(peer("x", asn))
        (manifests / "..data_tmp").symlink_to(f"..{version}")
        (manifests / "..data_tmp").rename(manifests / "..data")

    mount("1", 1)
    (manifests / "a.yaml").symlink_to("..data/a.yaml")
    follower = await start()
    assert asns(follower) == {"x": 1}

    mount("2", 2)
    shutil.rmtree(manifests / "..1")

    await follower.until(lambda: asns(follower) == {"x": 2})


async def test_a_directory_that_is_missing_is_waited_for(manifests: Path, start: Start) -> None:
    manifests.rmdir()
    follower = await start(wait=False)
    await follower.until(lambda: bool(follower.problems))
    assert follower.full_lists == 0
    assert follower.store.health().error == "no such file or directory"
    assert not follower.store.health().is_synced

    manifests.mkdir()
    (manifests / "a.yaml").write_text(peer("x"))

    await follower.until(lambda: follower.full_lists > 0 and asns(follower) == {"x": 65100})
    assert follower.problems == ()
    assert follower.store.health().error == ""


async def test_a_directory_that_goes_away_keeps_its_objects_and_is_followed_when_it_is_back(
    manifests: Path, start: Start
) -> None:
    (manifests / "a.yaml").write_text(peer("x", 1))
    follower = await start()

    manifests.rename(manifests.with_name("aside"))
    await follower.until(lambda: bool(follower.problems))
    assert asns(follower) == {"x": 1}
    assert follower.store.health().error

    manifests.mkdir()
    (manifests / "a.yaml").write_text(peer("x", 2))
    await follower.until(lambda: asns(follower) == {"x": 2})

    (manifests / "a.yaml").write_text(peer("x", 3))
    await follower.until(lambda: asns(follower) == {"x": 3})


async def test_a_change_inotify_says_nothing_of_is_found_by_looking_again(
    manifests: Path, start: Start, tmp_path: Path
) -> None:
    outside = tmp_path / "outside.yaml"
    outside.write_text(peer("x", 1))
    (manifests / "a.yaml").symlink_to(outside)
    follower = await start(rescan_s=0.2)

    outside.write_text(peer("x", 2))

    await follower.until(lambda: asns(follower) == {"x": 2})


async def test_without_inotify_the_directory_is_looked_at_all_the_same(
    manifests: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "RustNotify", refuse)
    (manifests / "a.yaml").write_text(peer("x", 1))
    follower = await start()
    assert follower.store.health().error == (
        "cannot be watched, so looked at every 0.05 s: [Errno 28] No space left on device"
    )

    (manifests / "a.yaml").write_text(peer("x", 2))

    await follower.until(lambda: asns(follower) == {"x": 2})


async def test_the_accident_of_a_moment_does_not_confirm_itself(manifests: Path, start: Start) -> None:
    (manifests / "a.yaml").write_text(peer("x", 1))
    follower = await start()

    manifests.rename(manifests.with_name("aside"))
    manifests.mkdir()
    await follower.until(lambda: asns(follower) == {})
    (manifests / "b.yaml").write_text(peer("y", 1))
    await follower.until(lambda: asns(follower) == {"y": 1})

    assert follower.full_lists == 1


async def test_files_are_neither_listed_nor_read_on_the_event_loop(
    manifests: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    (manifests / "a.yaml").write_text(peer("x", 1))
    on_loop: list[str] = []

    def watched(name: str, call: Callable[..., object]) -> Callable[..., object]:
        def check(*args: object, **kwargs: object) -> object:
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                return call(*args, **kwargs)
            if str(args[0]).startswith(str(manifests)):
                on_loop.append(f"{name} {args[0]}")
            return call(*args, **kwargs)

        return check

    monkeypatch.setattr(os, "scandir", watched("scandir", os.scandir))
    monkeypatch.setattr(Path, "stat", watched("stat", Path.stat))
    monkeypatch.setattr(Path, "open", watched("open", Path.open))
    follower = await start()
    await asyncio.to_thread((manifests / "a.yaml").write_text, peer("x", 2))
    await follower.until(lambda: asns(follower) == {"x": 2})

    assert on_loop == []


async def test_an_error_nobody_thought_of_reaches_whoever_takes_the_batches(
    manifests: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    (manifests / "a.yaml").write_text(peer("x", 1))
    monkeypatch.setattr(module.ManifestDirectory, "read", fail)
    follower = await start(wait=False)

    with pytest.raises(RuntimeError, match="a bug"):
        await follower.take()


async def test_stopping_is_quick_and_leaves_no_task(manifests: Path) -> None:
    (manifests / "a.yaml").write_text(peer("x", 1))
    store = DirectoryDatastore(manifests)
    await store.start()
    follower = Follower(store)
    await follower.until_synced()

    async with asyncio.timeout(DEADLINE_S):
        await store.stop()

    assert await follower.ends()
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_a_directory_is_checked_without_starting_anything(manifests: Path) -> None:
    (manifests / "a.yaml").write_text(peer("x", 1) + "---\n" + peer("y", 0))
    (manifests / "b.yaml").write_text("[")

    objects, problems = read_directory(manifests)

    assert [item.key.name for item in objects] == ["x"]
    assert [str(problem).rpartition("/manifests/")[2] for problem in problems] == [
        "a.yaml:9: BGPPeer y: spec.peerASN: 0 is not an AS number (1 to 4294967295)",
        "b.yaml:1: not YAML: did not find expected node content",
    ]


async def test_a_directory_that_has_lost_most_of_its_files_is_asked_twice(manifests: Path, start: Start) -> None:
    for number in range(6):
        (manifests / f"{number}.yaml").write_text(peer(f"x{number}"))
    follower = await start(rescan_s=0.5)

    for number in range(5):
        (manifests / f"{number}.yaml").unlink()

    await follower.until(lambda: bool(follower.problems))
    assert len(follower.objects) == 6
    assert "5 of 6 objects are gone at once" in str(follower.problems[0])
    await follower.until(lambda: not follower.problems)
    assert follower.names == {"x5"}
