# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Archives of unknown origin: their members are read, or the archive is refused with the reason."""

import io
import zipfile
from collections.abc import Mapping

import pytest

from policy_node.policies import PolicyError, archive
from policy_node.policies.archive import MAX_GROWTH, MAX_MEMBERS, has_members, member_names, read_members

MEMBERS = {"data": b"first", "weights": b"second", "folder/file": b""}


def packed(members: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", compression) as written:
        for name, content in members.items():
            written.writestr(name, content)
    return target.getvalue()


def refusal(content: bytes) -> str:
    with pytest.raises(PolicyError) as caught:
        read_members(content, ["data"], "policy.zip")
    text = str(caught.value)
    assert "policy file 'policy.zip'" in text
    return text


def test_wanted_members_are_read_and_missing_ones_left_out() -> None:
    content = packed(MEMBERS)
    assert read_members(content, ["weights", "folder/file", "other"], "policy.zip") == {
        "weights": b"second",
        "folder/file": b"",
    }
    assert read_members(content, [], "policy.zip") == {}
    assert member_names(content) == MEMBERS.keys()
    assert has_members("data", "weights")(content) and has_members()(content)
    assert not has_members("data", "other")(content)


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x05\x06" + bytes(18), packed(MEMBERS)[:-1], packed(MEMBERS)[1:]])
def test_what_is_no_whole_archive_has_no_members(content: bytes) -> None:
    assert member_names(content) == frozenset()
    assert f"cut off or damaged after {len(content)} bytes" in refusal(content)


def test_an_archive_inside_a_file_that_is_cut_off_is_not_taken_for_the_file() -> None:
    # The inner archive is whole, and stands at the end.
    inner = packed(MEMBERS)
    for content in (b"PK" + bytes(98) + inner, bytes(100) + inner):
        assert member_names(content) == frozenset()
        assert "directory at the end is missing" in refusal(content)
    # Other formats may begin otherwise, but such an archive is never a policy.
    assert member_names(b"\x7fELF" + inner) == frozenset()


def test_damaged_data_are_refused() -> None:
    content = packed(MEMBERS)
    assert "cut off or damaged" in refusal(content.replace(b"first", b"fist!"))


@pytest.mark.parametrize("name", ["/data", "../data", "folder/../data", "C:data", "\\data", "folder\\..\\data"])
def test_members_outside_of_the_archive_are_refused(name: str) -> None:
    assert f"its member '{name}' lies outside of it; get it again" in refusal(packed({"data": b"", name: b""}))


def test_doubled_members_are_refused() -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as written:
        for name in ("one", "data", "two", "data"):
            with pytest.warns(UserWarning) if name in written.namelist() else open("/dev/null"):
                written.writestr(name, b"")
    assert "it has two members 'data'" in refusal(target.getvalue())


def test_encrypted_members_are_refused() -> None:
    content = bytearray(packed({"data": b"first"}))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1
    assert "its member 'data' is encrypted" in refusal(bytes(content))


def test_members_that_grow_too_much_are_refused() -> None:
    content = packed({"data": bytes(10**6)}, zipfile.ZIP_DEFLATED)
    allowed = MAX_GROWTH * len(content)
    assert 10**6 > allowed
    assert f"its member 'data' unpacks to 1000000 bytes, allowed are {allowed};" in refusal(content)


def test_members_that_are_too_large_together_are_refused() -> None:
    half = 60 * len(packed({"data": bytes(10**4), "more": bytes(10**4)}, zipfile.ZIP_DEFLATED))
    content = packed({"data": bytes(half), "more": bytes(half)}, zipfile.ZIP_DEFLATED)
    allowed = MAX_GROWTH * len(content)
    assert half <= allowed < 2 * half
    assert f"its members unpack to {2 * half} bytes together, allowed are {allowed};" in refusal(content)


def test_the_limits_themselves_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    content = packed({"data": bytes(500), "more": bytes(500)})
    monkeypatch.setattr(archive, "MAX_MEMBER_BYTES", 1000)
    assert read_members(content, ["data"], "policy.zip") == {"data": bytes(500)}
    alone = packed({"data": bytes(1000)})
    assert read_members(alone, ["data"], "policy.zip") == {"data": bytes(1000)}
    monkeypatch.setattr(archive, "MAX_MEMBER_BYTES", 999)
    assert "unpack to 1000 bytes together, allowed are 999;" in refusal(content)
    monkeypatch.setattr(archive, "MAX_MEMBER_BYTES", 499)
    assert "its member 'data' unpacks to 500 bytes, allowed are 499;" in refusal(content)


def test_too_many_members_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_MEMBERS > 100
    monkeypatch.setattr(archive, "MAX_MEMBERS", 3)
    assert read_members(packed(MEMBERS), ["data"], "policy.zip") == {"data": b"first"}
    assert "it has 4 members, allowed are 3;" in refusal(packed({**MEMBERS, "more": b""}))
