from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from agent.datastore.yaml_documents import MAX_DEPTH, Document, NotYaml, read_documents

TEXT = st.text(st.characters(max_codepoint=0xFFFD, exclude_categories=["Cs", "Cc"]), max_size=20)
KEYS = TEXT.filter(lambda key: key != "<<")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


class Dumper(yaml.SafeDumper):
    """Quotes what numbers are by YAML 1.2, too, as Kubernetes reads them: 0E0, 0o7."""


for kind, looks in (("float", r"[-+]?([0-9]+|[0-9]*\.[0-9]*)[eE][-+]?[0-9]+$"), ("int", "0o[0-7]+$")):
    Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", re.compile(looks), list("-+.0123456789"))


def documents(text: str | bytes) -> list[Document]:
    return list(read_documents(text.encode() if isinstance(text, str) else text))


def only(text: str) -> Any:
    (document,) = documents(text)
    assert document.faults == ()
    return document.content


def failure(text: str | bytes) -> tuple[int, str]:
    with pytest.raises(NotYaml) as error:
        documents(text)
    return error.value.line, error.value.message


@given(VALUES.filter(lambda value: value is not None))
def test_json_means_what_it_means(value: Any) -> None:
    assert only(json.dumps(value)) == value
    assert only(json.dumps(value, indent="\t", ensure_ascii=False)) == value


@example("0E0")
@example("0o7")
@given(VALUES.filter(lambda value: value is not None))
def test_yaml_means_what_it_means(value: Any) -> None:
    assert only(yaml.dump(value, Dumper=Dumper, allow_unicode=True)) == value


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode(errors="replace")))
def test_any_bytes_are_documents_or_not_yaml(raw: bytes) -> None:
    lines = []
    try:
        lines = [document.line for document in documents(raw)]
    except NotYaml as error:
        lines = [error.line]
    assert all(1 <= line <= raw.count(b"\n") + raw.count(b"\r") + 2 for line in lines)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1", 1),
        ("a: -1", -1),
        ("a: 0x1f", 31),
        ("a: 0o17", 15),
        ("a: 017", 15),
        ("a: 0b11", 3),
        ("a: 1.5", 1.5),
        ("a: 1e3", 1000.0),
        ("a: yes", True),
        ("a: Off", False),
        ("a: y", "y"),
        ("a: ~", None),
        ("a:", None),
        ("a: '1'", "1"),
        ('a: "yes"', "yes"),
        ("a: !!str 1", "1"),
        ("a: !!int '1'", 1),
        ("a: 2026-11-21", "2026-11-21"),
        ("a: 2026-11-21T12:00:00Z", "2026-11-21T12:00:00Z"),
        ("a: 10:30", "10:30"),
        ("a: 65000:100", "65000:100"),
        ("a: 1_000", "1_000"),
        ("a: .inf", ".inf"),
        ("a: 10.42.0.0/16", "10.42.0.0/16"),
        ("a: fd42::/48", "fd42::/48"),
        ("a: " + "9" * 5000, "9" * 5000),
        ("a: |\n  x\n  y\n", "x\ny\n"),
        ('{"a": "x\\/y"}', "x/y"),
        ("\ufeffa: 1", 1),
        ("a: 1\r\n", 1),
    ],
)
def test_a_scalar_means_what_kubernetes_takes_it_for(text: str, value: object) -> None:
    content = only(text)

    assert content == {"a": value}
    assert type(content["a"]) is type(value)


def test_keys_are_names_whatever_they_look_like() -> None:
    assert only("{on: 1, 8080: 2, null: 3, 'a': 4}") == {"on": 1, "8080": 2, "null": 3, "a": 4}


def test_documents_are_told_apart_and_empty_ones_skipped() -> None:
    found = documents("---\n# nothing\n---\na: 1\n---\n---\nb: 2\n...\n")

    assert [(document.content, document.line) for document in found] == [({"a": 1}, 4), ({"b": 2}, 7)]
    assert documents("") == documents("# only a comment\n") == []


def test_every_value_knows_its_line() -> None:
    (document,) = documents(
        """\
# a comment
a: 1
b:
  c: [1,
      2]
  d:
  - e: 1
    f: 2
"""
    )

    lines = {
        (): 2,
        ("a",): 2,
        ("b",): 3,
        ("b", "c"): 4,
        ("b", "c", 1): 5,
        ("b", "d", 0): 7,
        ("b", "d", 0, "f"): 8,
        ("b", "missing", "deeper"): 3,
        ("b", "c", 7): 4,
    }
    assert {path: document.line_of(path) for path in lines} == lines


def test_anchors_aliases_and_merges_work() -> None:
    content = only(
        """
base: &base {x: 1, y: 2}
other: &other {y: 3, z: 4}
plain: *base
merged: {<<: *base, y: 9}
both:
  <<: [*base, *other]
list: [&one 1, *one]
quoted: {"<<": 1}
"""
    )

    assert content["plain"] == {"x": 1, "y": 2}
    assert content["merged"] == {"x": 1, "y": 9}
    assert content["both"] == {"x": 1, "y": 2, "z": 4}
    assert content["list"] == [1, 1]
    assert content["quoted"] == {"<<": 1}


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("a: 1\nb: 2\na: 3\n", [(("a",), "is set twice, first in line 1", 3)]),
        ("x:\n  a: 1\n  a:\n", [(("x", "a"), "is set twice, first in line 2", 3)]),
        ("a:\n- !secret x\n", [(("a", 0), "a YAML tag means nothing here: quote a text that starts with !", 2)]),
        ("a: !!binary aGk=\n", [(("a",), "a YAML tag means nothing here: quote a text that starts with !", 1)]),
        ("a: *x\n", [(("a",), "an alias (*) without its anchor (&): quote a text that starts with *", 1)]),
        ("a: &a [*a]\n", [(("a", 0), "an alias (*) without its anchor (&): quote a text that starts with *", 1)]),
        ("{a: 1}: 2\n", [((), "a key must be a string", 1)]),
        ("a: 1\n<<: 5\n", [((), "<< takes a mapping", 2)]),
    ],
)
def test_a_fault_of_one_document_is_named_and_leaves_the_next_alone(text: str, faults: list[object]) -> None:
    bad, good = documents(text + "---\nz: 1\n")

    assert list(bad.faults) == faults
    assert (good.content, good.faults) == ({"z": 1}, ())


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (b"a: 1\nb: \xff\n", 2, "not UTF-8 text"),
        ("a: 1\nb: \0\n", 2, "not YAML: a control character"),
        ("kind: X\nmeta", 2, "not YAML: a ':' is missing"),
        ("a:\n\tb: 1\n", 2, "not YAML: a tab cannot indent, use spaces"),
        ("a: 1\nb: @x\n", 2, "not YAML: a value that starts with @ needs quotes"),
        (
            "a: [1, 2\nb: 3\n",
            2,
            "not YAML: did not find expected ',' or ']' while parsing a flow sequence that begins in line 1",
        ),
        ("a: 1\n b: 2\n", 2, "not YAML: mapping values are not allowed in this context"),
        (
            "a: 'x\ny\n",
            2,
            "not YAML: found unexpected end of stream while scanning a quoted scalar that begins in line 1",
        ),
        ("a: 1\n---\n" + "[" * (MAX_DEPTH + 2), 3, "more than 50 levels deep"),
        ("{a: " * 10000, 1, "more than 50 levels deep"),
    ],
)
def test_text_that_is_no_yaml_is_refused_with_its_line(text: str | bytes, line: int, message: str) -> None:
    assert failure(text) == (line, message)


def test_a_bomb_of_aliases_is_refused_before_it_goes_off() -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]

    line, message = failure("\n".join(levels))

    assert message == "aliases repeat more than 10000 values"
    assert line == 4
