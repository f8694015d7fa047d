"""Keys and paths: there and back for every path, and something sensible for every key."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierfs.core.keys import Named, Unnameable, is_reserved, is_storable, key_of, path_of

PREFIXES = st.sampled_from(["", "p/", "deep/prefix/", "no-slash"])

names = st.binary(min_size=1, max_size=12).filter(lambda name: b"/" not in name and b"\0" not in name)
real_names = names.filter(lambda name: name not in (b".", b".."))
paths = st.lists(real_names, min_size=1, max_size=4).map(b"/".join)


@given(PREFIXES, paths)
def test_a_path_comes_back(prefix: str, path: bytes) -> None:
    key = key_of(prefix, path)
    assert path_of(prefix, key) == Named(path)
    assert key.startswith(prefix)
    assert not is_reserved(prefix, key)


@given(PREFIXES, paths)
def test_a_key_is_one_that_s3_and_xml_can_carry(prefix: str, path: bytes) -> None:
    key = key_of(prefix, path)
    assert key.encode("utf-8").decode("utf-8") == key
    assert not any(character < " " or character in "\x7f\ufffe\uffff" for character in key)


@given(PREFIXES, st.lists(paths, min_size=2, max_size=5, unique=True))
def test_two_paths_never_share_a_key(prefix: str, some: list[bytes]) -> None:
    assert len({key_of(prefix, path) for path in some}) == len(some)


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=40))
def test_any_key_is_named_or_refused_with_a_reason(key: str) -> None:
    found = path_of("", key)
    if isinstance(found, Unnameable):
        assert found.reason.startswith("has ")
    else:
        assert all(name not in (b"", b".", b"..") for name in found.path.split(b"/"))
        assert b"\0" not in found.path
        assert not found.path.startswith(b"/")


@pytest.mark.parametrize(
    ("path", "key"),
    [
        (b"a/b.log", "a/b.log"),
        (b"\xff", "%FF"),
        (b"100%", "100%25"),
        (b"new\nline", "new%0Aline"),
        ("ü/日本".encode(), "ü/日本"),
        (b".tierfs", "%2Etierfs"),
        (b".tierfs/x", "%2Etierfs/x"),
        (b".tierfsx", ".tierfsx"),
        (b"d/.tierfs", "d/.tierfs"),
        (b" +&?#", " +&?#"),
    ],
)
def test_keys_that_people_read(path: bytes, key: str) -> None:
    assert key_of("", path) == key
    assert path_of("", key) == Named(path)


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("100%", b"100%"),  # not as key_of writes it: letter by letter
        ("%41", b"%41"),
        ("%2f", b"%2f"),
        ("a%00b", b"a%00b"),
        ("%FF%FE", b"\xff\xfe"),
    ],
)
def test_keys_of_others(key: str, path: bytes) -> None:
    found = path_of("", key)
    assert found == Named(path) or isinstance(found, Unnameable)


def test_directories_end_in_a_slash() -> None:
    assert path_of("p/", "p/d/e/") == Named(b"d/e", is_directory=True)


@pytest.mark.parametrize("key", ["", "/", "/abs", "a//b", "a//", ".", "..", "../x", "a/../b", "a/.", "x" * 256, "a\0b"])
def test_keys_that_no_file_can_have(key: str) -> None:
    assert isinstance(path_of("", key), Unnameable)


def test_lengths() -> None:
    assert is_storable("k" * 1024)
    assert not is_storable("k" * 1025)
    assert not is_storable("ü" * 513)
    assert path_of("", "n" * 255) == Named(b"n" * 255)


def test_what_is_reserved() -> None:
    assert is_reserved("p/", "p/.tierfs/moving/1")
    assert not is_reserved("p/", "p/.tierfsx")
    assert not is_reserved("p/", "q/.tierfs/x")
