"""Archives that were made to break whoever opens them (hostile inputs 1 to 15): each has its stated answer."""

from __future__ import annotations

import io
import resource
import stat
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from preparer.archive import MOST_MEMBERS, Archive, clean
from preparer.findings import KEPT, Findings, shown
from shared import errors
from tests.dataset_kit import Content, check_here, of_classes, picture, zipped

GOOD = of_classes({"cat": 3, "dog": 3})
DEFLATED = zipfile.ZIP_DEFLATED


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "upload.zip"


def refused(path: Path, says: str) -> str:
    with pytest.raises((errors.BadDataset, errors.TooLarge), match=says) as error:
        check_here(path)
    return error.value.message


def with_member(path: Path, name: str, content: Content = "x", **facts: int) -> Path:
    """The good upload and one more member."""
    zipped(path, GOOD)
    info = zipfile.ZipInfo(name)
    for fact, value in facts.items():
        setattr(info, fact, value)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(info, content)
    return path


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("../../evil.jpg", "leads out of it"),
        ("cat/../../evil.jpg", "leads out of it"),
        ("/etc/evil.jpg", "absolute path"),
        ("C:\\evil.jpg", "absolute path"),
        ("..\\..\\evil.jpg", "leads out of it"),
        ("\\\\server\\evil.jpg", "absolute path"),
    ],
)
def test_01_02_03_paths_that_lead_out(name: str, says: str, path: Path, tmp_path: Path):
    refused(with_member(path, name), says)
    assert not [found for found in tmp_path.parent.rglob("evil*")]


def test_03_a_backslash_within_is_a_separator(path: Path):
    zipped(path, {f"{label}\\{number}.jpg": picture(number + 9 * len(label)) for label in "ab" for number in range(3)})
    assert set(check_here(path).labels) == {"a\\0.jpg", "a\\1.jpg", "a\\2.jpg", "b\\0.jpg", "b\\1.jpg", "b\\2.jpg"}


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_04_05_links_and_devices_are_left_out(kind: int, path: Path):
    with_member(path, "cat/9.jpg", "/etc/passwd", create_system=3, external_attr=(kind | 0o777) << 16)
    found = check_here(path)
    assert found.summary.num_samples == 6
    assert "cat/9.jpg: is a symbolic link or a device" in found.said


@pytest.mark.parametrize("name", ["cat/inner.zip", "more.tar.gz", "deep/x.7z"])
def test_06_an_archive_within_is_not_opened(name: str, path: Path):
    inner = zipped(path.with_name("inner.zip"), GOOD).read_bytes()
    found = check_here(with_member(path, name, inner))
    assert f"{name}: is an archive within the archive" in found.said
    assert found.summary.num_samples == 6


def test_06_archives_only(path: Path):
    zipped(path, {f"layer {number}.zip": "PK" for number in range(16)})
    assert "archive within the archive" in refused(path, "No image and no video")


def test_07_one_file_that_unfolds_too_far(path: Path):
    with zipfile.ZipFile(path, "w", DEFLATED) as archive, archive.open("cat/1.jpg", "w") as member:
        for _ in range(64):
            member.write(bytes(1 << 20))
    assert path.stat().st_size < 100_000
    refused(path, "unfolds to 64 MB")


def test_07_many_files_that_do_together(path: Path):
    zipped(path, {f"cat/{number}.txt": bytes(4 << 20) for number in range(20)}, DEFLATED)
    refused(path, "unfolds to .* times its size")


def patched(path: Path, change: Callable[[bytearray, list[int]], None]) -> Path:
    """Change the table of contents; the change gets the bytes and where its entries begin."""
    data = bytearray(path.read_bytes())
    places, at = [], data.find(b"PK\x01\x02")
    while at >= 0:
        places.append(at)
        at = data.find(b"PK\x01\x02", at + 4)
    change(data, places)
    path.write_bytes(data)
    return path


def test_08_members_that_share_bytes(path: Path):
    def share(data: bytearray, places: list[int]) -> None:
        for place in places[1:]:
            data[place + 42 : place + 46] = struct.pack("<L", 0)

    refused(patched(zipped(path, GOOD), share), "share bytes")


def test_09_a_million_files_are_refused_before_they_become_objects(path: Path):
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", 20, 3, 20, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"x"
    count = MOST_MEMBERS + 1
    size, start = len(entry) * count, 31
    far = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, start)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, start + size, 1)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path.write_bytes(b"PK\3\4" + bytes(22) + b"\1\0\0\0x" + entry * count + far + locator + end)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    refused(path, "more than 1,000,000 files")
    assert time.monotonic() - started < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 250 * 1024


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("one", "other"), [("cat/7.jpg", "cat/7.jpg"), ("cat/é.jpg", "cat/e\u0301.jpg"), ("cat/7.jpg", "./cat//7.jpg")]
)
def test_10_two_members_of_one_name(one: str, other: str, path: Path):
    zipped(path, GOOD)
    with zipfile.ZipFile(path, "a") as archive:
        for name in (one, other):
            archive.writestr(name, picture(77))
    refused(path, "Two members of the ZIP are called")


def test_10_names_that_differ_in_case_are_two(path: Path):
    found = check_here(zipped(path, GOOD | {"cat/A.jpg": picture(70), "cat/a.jpg": picture(71)}))
    assert found.summary.num_samples == 8
    assert "only in upper and lower case" in found.said


@pytest.mark.parametrize("name", ["cat/a\nb.jpg", "cat/a\u202egpj.jpg", "cat/\x1b[31m.jpg", "cat/\u2028.jpg"])
def test_11_names_with_control_characters_are_left_out(name: str, path: Path):
    found = check_here(with_member(path, name, picture(50)))
    assert "has control characters in its name" in found.said
    assert found.said.isprintable() or found.said.replace("\n", "").isprintable()
    assert found.summary.num_samples == 6


def test_11_a_name_with_nul(path: Path):
    def put_nul(data: bytearray, places: list[int]) -> None:
        for place in (data.find(b"cat/0.jpg"), data.rfind(b"cat/0.jpg")):
            data[place + 4] = 0

    found = check_here(patched(zipped(path, GOOD), put_nul))
    assert "cat/\\x00.jpg: has control characters" in found.said
    assert found.summary.num_samples == 5


def test_11_overlong_names_are_left_out(path: Path):
    found = check_here(with_member(path, f"cat/{'x' * 300}.jpg", picture(50)))
    assert "more than 255 bytes" in found.said
    assert max(len(warning.where) for warning in found.summary.warnings) <= 200


@pytest.mark.parametrize("name", ["CON", "aux", "NUL.tar", "com1"])
def test_11_names_that_only_windows_minds_are_like_others(name: str, path: Path):
    found = check_here(with_member(path, f"cat/{name}.jpg", picture(50)))
    assert found.labels[f"cat/{name}.jpg"] == "cat"


def test_12_encrypted(path: Path):
    def encrypt(data: bytearray, places: list[int]) -> None:
        data[places[2] + 8] |= 1

    refused(patched(zipped(path, GOOD), encrypt), "is encrypted. Make the ZIP without a password")


def test_13_a_wrong_checksum_costs_the_member(path: Path):
    zipped(path, GOOD)
    data = bytearray(path.read_bytes())
    data[data.find(b"cat/1.jpg") + 60] ^= 0xFF
    path.write_bytes(data)
    found = check_here(path)
    assert "cat/1.jpg: It is damaged in the ZIP (wrong checksum)" in found.said
    assert found.summary.num_samples == 5
    assert found.summary.num_skipped == 1


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.99])
def test_13_cut_off(part: float, path: Path):
    data = zipped(path, GOOD).read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    refused(path, "not a complete ZIP|neither a ZIP nor a CSV")


def test_13_damaged_deflate_data(path: Path):
    zipped(path, GOOD, DEFLATED)
    data = bytearray(path.read_bytes())
    at = data.find(b"cat/1.jpg") + len(b"cat/1.jpg")
    data[at : at + 40] = b"\xff" * 40
    path.write_bytes(data)
    assert "cat/1.jpg: It is damaged in the ZIP" in check_here(path).said


@pytest.mark.parametrize(("packed", "unpacked"), [(2**62, 2**62), (1000, 2**62), (2**62, 1000), (2**40, 2**41)])
def test_14_sizes_that_lie(packed: int, unpacked: int, path: Path):
    def lie(data: bytearray, places: list[int]) -> None:
        place = places[-1]
        name_length = struct.unpack_from("<H", data, place + 28)[0]
        struct.pack_into("<2L", data, place + 20, 0xFFFFFFFF, 0xFFFFFFFF)
        struct.pack_into("<H", data, place + 30, 20)
        extra = struct.pack("<2H2Q", 1, 16, unpacked, packed)
        at = place + 46 + name_length
        data[at:at] = extra
        end = data.rfind(b"PK\5\6")
        struct.pack_into("<L", data, end + 12, struct.unpack_from("<L", data, end + 12)[0] + 20)

    refused(patched(zipped(path, GOOD), lie), "beyond the end|unfolds to|share bytes|not a complete ZIP|GiB")


def test_14_a_member_larger_than_declared(path: Path):
    content = picture(9, 200, 200) + bytes(1 << 20)
    zipped(path, GOOD | {"cat/9.jpg": content}, DEFLATED)

    def lie(data: bytearray, places: list[int]) -> None:
        for place, field in ((places[-1], 24), (data.find(b"cat/9.jpg") - 30, 22)):
            struct.pack_into("<L", data, place + field, 100)

    assert "cat/9.jpg: It is damaged in the ZIP (wrong checksum)" in check_here(patched(path, lie)).said


@pytest.mark.parametrize("front", [picture(1), b"#!/bin/sh\n", b"%PDF-1.7\n"], ids=["JPEG", "script", "PDF"])
def test_15_something_else_as_well(front: bytes, path: Path):
    path.write_bytes(front + zipped(path, GOOD).read_bytes())
    refused(path, "bytes before the first file")


def test_other_compressions_are_named(path: Path):
    zipped(path, GOOD)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("cat/8.jpg", picture(8), zipfile.ZIP_LZMA)
    assert "cat/8.jpg: is compressed in a way we do not read" in check_here(path).said


def test_what_desktops_leave_behind_is_ignored_without_a_word(path: Path):
    litter = ["__MACOSX/cat/._0.jpg", "cat/.DS_Store", "Thumbs.db", "dog/desktop.ini", ".git/config"]
    found = check_here(zipped(path, GOOD | {name: "x" for name in litter}))
    assert [warning for warning in found.summary.warnings if "has 3 images" not in warning.what] == []


def test_a_stored_member_can_be_sought(path: Path):
    content = bytes(range(256)) * 100
    for method in (zipfile.ZIP_STORED, DEFLATED):
        with (
            Archive(zipped(path, {"a/x.avi": content}, method), Findings()) as archive,
            archive.seekable("a/x.avi") as stream,
        ):
            assert stream.read(10) == content[:10]
            assert stream.seek(-5, io.SEEK_END) == len(content) - 5
            assert stream.read() == content[-5:]
            assert stream.seek(1000) == 1000
            assert stream.read(3) == content[1000:1003]


def test_a_member_may_be_larger_than_the_table_of_contents(path: Path, monkeypatch: pytest.MonkeyPatch):
    content = bytes(range(256)) * 1024
    zipped(path, {"a.json": content})
    monkeypatch.setattr("preparer.archive.LARGEST_DIRECTORY", 100_000)
    with Archive(path, Findings()) as archive:
        assert archive.read("a.json") == content


def test_reading_is_bounded(path: Path):
    with Archive(zipped(path, {"a/x.jpg": bytes(2000)}), Findings()) as archive:
        assert archive.read("a/x.jpg") == bytes(2000)
        with pytest.raises(errors.TooLarge):
            archive.read("a/x.jpg", most=1999)


def test_names_are_made_one():
    assert clean("./a//b\\c.jpg") == "a/b/c.jpg"
    assert clean("e\u0301/x.jpg") == "é/x.jpg"


def test_findings_are_bounded_and_counted():
    findings = Findings()
    for number in range(1000):
        findings.add("image", f"{number}.jpg", "is broken")
    findings.add("class", "cat", "is rare")
    assert findings.count == 1001
    warnings = findings.list()
    assert len(warnings) == KEPT + 2
    assert warnings[KEPT].where == f"{1000 - KEPT} more"
    assert shown("a\nb\u202e") == r"'a\nb\u202e'"
