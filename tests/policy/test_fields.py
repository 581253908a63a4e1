from __future__ import annotations

import pytest

from policy.fields import (
    FieldError,
    RefusedError,
    check_known,
    check_label_key,
    check_label_value,
    expect_list,
    expect_name,
    expect_object,
    expect_port_number,
    expect_text,
    forbidden,
    invalid,
    port_name_problems,
    required,
    subdomain_problems,
    too_many,
    unsupported,
)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (invalid("a.b", "x", "must be y"), 'a.b: Invalid value: "x": must be y'),
        (invalid("a.b", {"c": None}, "must be y"), 'a.b: Invalid value: {"c": null}: must be y'),
        (required("a"), "a: Required value"),
        (required("a", "say it"), "a: Required value: say it"),
        (forbidden("a", "not here"), "a: Forbidden: not here"),
        (unsupported("a", "x", ["y", "z"]), 'a: Unsupported value: "x": supported values: "y", "z"'),
        (too_many("a", 26, 25), "a: Too many: 26: must have at most 25 items"),
        (check_known({"b": 1}, frozenset(), "a")[0], "a.b: unknown field"),
        (check_known({"b": 1}, frozenset(), "")[0], "b: unknown field"),
    ],
)
def test_complaints_read_as_the_api_servers(error: FieldError, text: str) -> None:
    assert str(error) == text


def test_a_refusal_carries_every_complaint() -> None:
    errors = [required("a"), required("b")]
    refused = RefusedError(errors)
    assert refused.errors == tuple(errors)
    assert str(refused) == "a: Required value; b: Required value"


@pytest.mark.parametrize("key", ["a", "a/b", "example.com/A_b.c", "x" * 63, "a" * 63 + "." + "b" * 63 + "/c", "0"])
def test_good_label_keys(key: str) -> None:
    assert check_label_key(key, "f") == []


@pytest.mark.parametrize("key", ["", "/a", "a/", "-a", "a-", "a b", "x" * 64, "A.com/b", "a/b/c", "é", "a\n"])
def test_bad_label_keys(key: str) -> None:
    assert check_label_key(key, "f")


def test_label_values() -> None:
    assert all(check_label_value(value, "f") == [] for value in ("", "a", "A-b_c.d", "x" * 63))
    assert all(check_label_value(value, "f") for value in ("-", "a b", "x" * 64, "é", "a\n", "a,b"))


def test_subdomains_and_port_names() -> None:
    assert all(subdomain_problems(name) == [] for name in ("a", "a.b-c", "0", "x" * 253))
    assert all(subdomain_problems(name) for name in ("", "A", "a..b", "-a", "a.", "x" * 254, "a\n"))
    assert all(port_name_problems(name) == [] for name in ("http", "a1", "1a", "a-b", "x" * 15))
    assert all(port_name_problems(name) for name in ("", "HTTP", "1", "a--b", "-a", "a-", "x" * 16, "a_b"))


def test_what_is_of_another_type_is_a_complaint_and_something_to_go_on_with() -> None:
    errors: list[FieldError] = []
    assert expect_object([], "o", errors) == {}
    assert expect_list({}, "l", errors) == []
    assert expect_text(1, "t", errors) == ""
    assert expect_name("", "n", errors) == ""
    assert expect_port_number("80", "p", errors) == 1
    assert [error.field for error in errors] == ["o", "l", "t", "n", "p"]


def test_items_come_with_their_paths_and_null_is_nothing() -> None:
    errors: list[FieldError] = []
    assert expect_list(["x", "y"], "l", errors) == [("x", "l[0]"), ("y", "l[1]")]
    assert expect_list(None, "l", errors) == []
    assert expect_text(None, "t", errors) == ""
    assert errors == []
