from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.datastore.manifest_directory import LAST_GOOD, MISSING_STAYS, ManifestDirectory, View
from agent.objects import BGPPeer


def peer(name: str, asn: object = 65100) -> str:
    return f"""\
apiVersion: tortie.dev/v1alpha1
kind: BGPPeer
metadata: {{name: {name}}}
spec: {{peer: {{address: 172.16.1.1}}, peerASN: {asn}}}
"""


def both(*documents: str) -> str:
    return "---\n".join(documents)


class Manifests:
    """A directory, and what it says."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._directory = ManifestDirectory(root)
        self.view = View()

    def read(self) -> dict[str, object]:
        """Read it again; return the AS number of each peer."""
        self.view = self._directory.read()
        return {item.name: item.spec.peer_asn for item in self.view.objects.values() if isinstance(item, BGPPeer)}

    def write(self, name: str, text: str) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(text)

    @property
    def problems(self) -> list[str]:
        return [str(problem).replace(f"{self.root}/", "") for problem in self.view.problems]


@pytest.fixture
def manifests(tmp_path: Path) -> Manifests:
    return Manifests(tmp_path)


def test_every_manifest_file_below_counts_and_nothing_else(manifests: Manifests) -> None:
    for name in ("a.yaml", "b.yml", "c.json", "deep/er/d.yaml"):
        manifests.write(name, peer(Path(name).stem))
    for name in (".e.yaml", "f.yaml~", "g.txt", ".git/h.yaml", ".i.yaml.swp", "#j.yaml#"):
        manifests.write(name, peer("no"))

    assert manifests.read() == dict.fromkeys("abcd", 65100)
    assert manifests.problems == []


def test_a_bad_object_keeps_its_last_good_version_and_others_go_on(manifests: Manifests) -> None:
    manifests.write("a.yaml", both(peer("bad", 1), peer("other", 1)))
    manifests.read()

    manifests.write("a.yaml", both(peer("bad", 0), peer("other", 2)))

    assert manifests.read() == {"bad": 1, "other": 2}
    assert manifests.problems == [
        f"a.yaml:4: BGPPeer bad: spec.peerASN: 0 is not an AS number (1 to 4294967295). {LAST_GOOD}"
    ]


def test_a_bad_object_that_was_never_good_is_ignored_until_it_is_mended(manifests: Manifests) -> None:
    manifests.write("a.yaml", peer("x", 0))
    assert manifests.read() == {}
    assert manifests.problems == [
        "a.yaml:4: BGPPeer x: spec.peerASN: 0 is not an AS number (1 to 4294967295). It is ignored."
    ]

    manifests.write("a.yaml", peer("x", 7))

    assert manifests.read() == {"x": 7}
    assert manifests.problems == []


def test_a_bad_object_that_is_deleted_is_gone(manifests: Manifests) -> None:
    manifests.write("a.yaml", peer("x", 1))
    manifests.read()
    manifests.write("a.yaml", peer("x", 0))
    manifests.read()

    manifests.write("a.yaml", peer("y", 1))

    assert manifests.read() == {"y": 1}
    assert manifests.problems == []


def test_an_object_that_became_bad_as_its_file_was_renamed_keeps_its_last_good_version(manifests: Manifests) -> None:
    manifests.write("a.yaml", peer("x", 1))
    manifests.read()

    (manifests.root / "a.yaml").unlink()
    manifests.write("z.yaml", peer("x", 0))

    assert manifests.read() == {"x": 1}
    assert manifests.read() == {"x": 1}
    assert manifests.problems == [
        f"z.yaml:4: BGPPeer x: spec.peerASN: 0 is not an AS number (1 to 4294967295). {LAST_GOOD}"
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (peer("x", 2)[:36], "a.yaml:2: not YAML: a ':' is missing. What the file said before stays in force."),
        (
            "",
            "a.yaml: is empty: delete the file to delete what was in it. What the file said before stays in force.",
        ),
        (
            both(peer("z", 1).replace("name: z", "nmae: z"), peer("x", 1)),
            f"a.yaml:3: BGPPeer: metadata.name: is required. {MISSING_STAYS}",
        ),
    ],
    ids=["half written", "emptied", "an object without a name"],
)
def test_a_file_that_makes_no_sense_keeps_what_it_said(manifests: Manifests, text: str, problem: str) -> None:
    manifests.write("a.yaml", both(peer("x", 1), peer("y", 1)))
    manifests.write("b.yaml", peer("z", 1))
    manifests.read()

    manifests.write("a.yaml", text)
    manifests.write("b.yaml", peer("z", 2))

    assert manifests.read() == {"x": 1, "y": 1, "z": 2}
    assert problem in manifests.problems

    manifests.write("a.yaml", peer("x", 3))
    assert manifests.read() == {"x": 3, "z": 2}
    assert manifests.problems == []


def test_a_file_without_a_document_deletes_what_was_in_it(manifests: Manifests) -> None:
    manifests.write("a.yaml", peer("x"))
    manifests.read()

    manifests.write("a.yaml", "# nothing any more\n")

    assert manifests.read() == {}
    assert manifests.problems == []


def test_a_new_empty_file_is_no_problem(manifests: Manifests) -> None:
    manifests.write("a.yaml", "")

    assert manifests.read() == {}
    assert manifests.problems == []


def test_a_deleted_file_takes_its_objects_along(manifests: Manifests) -> None:
    manifests.write("a.yaml", peer("x"))
    manifests.write("b.yaml", peer("y"))
    manifests.read()

    (manifests.root / "a.yaml").unlink()

    assert manifests.read() == {"y": 65100}


def test_a_renamed_file_changes_nothing(manifests: Manifests) -> None:
    manifests.write("b.yaml", peer("x"))
    manifests.read()
    before = manifests.view.objects

    (manifests.root / "b.yaml").rename(manifests.root / "a.yaml")
    manifests.read()

    assert manifests.view.objects == before


def test_of_two_files_with_one_object_the_first_by_path_wins(manifests: Manifests) -> None:
    manifests.write("b.yaml", both(peer("y"), peer("x", 2)))
    assert manifests.read()["x"] == 2

    manifests.write("a.yaml", peer("x", 1))

    assert manifests.read() == {"x": 1, "y": 65100}
    assert manifests.problems == ["b.yaml:6: BGPPeer x: is also in a.yaml:1, which comes first. It is ignored."]

    (manifests.root / "a.yaml").unlink()
    assert manifests.read()["x"] == 2
    assert manifests.problems == []


def test_of_two_documents_with_one_object_the_first_wins(manifests: Manifests) -> None:
    manifests.write("a.yaml", both(peer("x", 1), peer("x", 2)))

    assert manifests.read() == {"x": 1}
    assert manifests.problems == ["a.yaml:6: BGPPeer x: is also in a.yaml:1, which comes first. It is ignored."]


def test_the_last_good_version_of_the_first_file_is_worth_more_than_another_file(manifests: Manifests) -> None:
    manifests.write("a.yaml", peer("x", 1))
    manifests.write("b.yaml", peer("x", 2))
    manifests.read()

    manifests.write("a.yaml", peer("x", 0))

    assert manifests.read() == {"x": 1}


def test_an_object_is_the_same_object_while_its_text_is_the_same(manifests: Manifests) -> None:
    manifests.write("a.yaml", both(peer("x"), peer("y")))
    manifests.read()
    before = manifests.view.objects

    manifests.write("a.yaml", both(peer("x"), peer("y", 7)))
    manifests.read()
    same, changed = sorted(before, key=lambda key: key.name)

    assert manifests.view.objects[same] == before[same]
    assert manifests.view.objects[changed] != before[changed]


def test_two_writes_of_one_moment_and_size_are_both_seen(manifests: Manifests) -> None:
    for asn in range(65000, 65020):
        manifests.write("a.yaml", peer("x", asn))
        assert manifests.read() == {"x": asn}


def test_an_old_file_that_did_not_change_is_not_read_again(manifests: Manifests) -> None:
    manifests.write("a.yaml", peer("x", 1))
    path = manifests.root / "a.yaml"
    moment = path.stat().st_mtime - 60
    os.utime(path, (moment, moment))
    manifests.read()
    first = manifests.view.objects

    # its change time is of now: only once that has aged may the stamp be trusted
    directory = manifests._directory
    seen = directory._seen[str(path)]
    status = path.stat()
    stamp = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    directory._seen[str(path)] = seen._replace(stamp=stamp)
    manifests.read()

    assert directory._seen[str(path)].content is seen.content
    assert manifests.view.objects == first


def test_a_missing_directory_is_an_error_and_what_it_said_stays(manifests: Manifests) -> None:
    manifests.write("a.yaml", peer("x"))
    manifests.read()

    shutil.rmtree(manifests.root)

    assert manifests.read() == {"x": 65100}
    assert manifests.view.error == "no such file or directory"
    assert manifests.problems == [f"{manifests.root}: no such file or directory. The objects of before stay in force."]

    manifests.write("b.yaml", peer("y"))
    assert manifests.read() == {"y": 65100}
    assert manifests.view.error == ""


def test_a_directory_that_was_never_there_says_so(tmp_path: Path) -> None:
    view = ManifestDirectory(tmp_path / "none").read()

    assert view.objects == {}
    assert [str(problem) for problem in view.problems] == [f"{tmp_path}/none: no such file or directory"]


def test_what_cannot_be_read_is_reported_and_keeps_what_it_said(
    manifests: Manifests, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may read everything: refusals of the file system are played."""
    manifests.write("a.yaml", peer("x", 1))
    manifests.write("sub/b.yaml", peer("y", 1))
    manifests.write("c.yaml", peer("z", 1))
    manifests.read()
    open_file, scandir = Path.open, os.scandir

    def refuse_file(path: Path, *mode: str) -> object:
        if path.name == "a.yaml":
            raise PermissionError(13, "Permission denied")
        return open_file(path, *mode)

    def refuse_directory(path: str) -> object:
        if path.endswith("sub"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(Path, "open", refuse_file)
    monkeypatch.setattr(os, "scandir", refuse_directory)
    (manifests.root / "c.yaml").unlink()

    assert manifests.read() == {"x": 1, "y": 1}
    assert manifests.problems == [
        "a.yaml: permission denied. What the file said before stays in force.",
        "sub: permission denied. What its files said before stays in force.",
    ]

    monkeypatch.undo()
    assert manifests.read() == {"x": 1, "y": 1}
    assert manifests.problems == []


def test_a_file_that_goes_while_it_is_looked_at_is_gone(manifests: Manifests, monkeypatch: pytest.MonkeyPatch) -> None:
    manifests.write("a.yaml", peer("x"))
    manifests.read()
    manifests.write("b.yaml", peer("y"))
    open_file = Path.open

    def too_late(path: Path, *mode: str) -> object:
        path.unlink()
        return open_file(path, *mode)

    monkeypatch.setattr(Path, "open", too_late)

    assert manifests.read() == {}
    assert manifests.problems == []


def test_what_is_no_regular_file_is_never_opened(manifests: Manifests) -> None:
    os.mkfifo(manifests.root / "a.yaml")
    (manifests.root / "b.yaml").symlink_to("nowhere.yaml")
    manifests.write("c.yaml", peer("x"))

    assert manifests.read() == {"x": 65100}
    assert manifests.problems == [
        "a.yaml: is not a regular file. It is ignored.",
        "b.yaml: no such file or directory. It is ignored.",
    ]


def test_links_are_followed_but_not_in_circles(manifests: Manifests, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "y.yaml").write_text(peer("y"))
    manifests.write("sub/x.yaml", peer("x"))
    (manifests.root / "sub" / "up").symlink_to("..")
    (manifests.root / "out").symlink_to(elsewhere)

    assert manifests.read() == {"x": 65100, "y": 65100}
    assert manifests.problems == []


def test_a_config_map_is_swapped_as_a_whole(manifests: Manifests) -> None:
    def mount(version: str, asn: int) -> None:
        manifests.write(f"..{version}/a.yaml", peer("x", asn))
        manifests.write(f"..{version}/b.yaml", peer("y", asn))
        (manifests.root / "..data_tmp").symlink_to(f"..{version}")
        (manifests.root / "..data_tmp").rename(manifests.root / "..data")

    mount("1", 1)
    for name in ("a.yaml", "b.yaml"):
        (manifests.root / name).symlink_to(f"..data/{name}")
    assert manifests.read() == {"x": 1, "y": 1}

    mount("2", 2)

    assert manifests.read() == {"x": 2, "y": 2}
    assert manifests.problems == []


FILES = ("a.yaml", "b.yaml", "sub/c.yaml")
TEXTS = st.lists(st.tuples(st.sampled_from("xyz"), st.integers(1, 3)), max_size=3).map(
    lambda peers: both(*(peer(name, asn) for name, asn in peers)) or "# nothing\n"
)
STEPS = st.lists(
    st.tuples(st.sampled_from(FILES), TEXTS)  # write
    | st.tuples(st.sampled_from(FILES), st.none())  # delete
    | st.tuples(st.sampled_from(FILES), st.sampled_from([peer("x", 2)[:40], "", "[", "\t"]))  # an interrupted save
    | st.none(),  # read
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_whatever_was_written_in_between_the_end_is_as_if_read_for_the_first_time(
    steps: list[tuple[str, str | None] | None],
) -> None:
    with tempfile.TemporaryDirectory() as root:
        manifests = Manifests(Path(root))
        for step in steps:
            match step:
                case None:
                    manifests.read()
                case (name, None):
                    (manifests.root / name).unlink(missing_ok=True)
                case (name, str(text)):
                    manifests.write(name, text)
        for name in FILES:  # whatever was half written is finished
            if (manifests.root / name).exists():
                manifests.write(name, peer(Path(name).stem))

        assert manifests.read() == Manifests(Path(root)).read()
        assert manifests.problems == []
