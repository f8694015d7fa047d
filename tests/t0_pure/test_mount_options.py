"""mount.tierfs: how it reads what mount(8) passes on."""

import pytest

from tierfs.cli.mount_helper import Call, plan_options, read_call, split_options
from tierfs.cli.sources import gather
from tierfs.core.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("", []),
        ("rw", [("rw", None)]),
        ("rw,hot=/ssd,,ro,", [("rw", None), ("hot", "/ssd"), ("ro", None)]),
        ("hot=/a=b", [("hot", "/a=b")]),
        ("hot=", [("hot", "")]),
        (r"hot=/a\,b,ro", [("hot", "/a,b"), ("ro", None)]),
        (r"hot=/a\\,ro", [("hot", "/a\\"), ("ro", None)]),
        (r"hot=/a\b", [("hot", r"/a\b")]),
        ('exclude="*.a,*.b",ro', [("exclude", "*.a,*.b"), ("ro", None)]),
        ('"exclude=*.a,*.b"', [("exclude", "*.a,*.b")]),
        (r"hot=/a\"b", [("hot", '/a"b')]),
    ],
)
def test_options_are_taken_apart_as_mount_does_it(text: str, options: list[tuple[str, str | None]]) -> None:
    assert list(split_options(text)) == options


def test_a_quote_that_is_not_closed() -> None:
    with pytest.raises(ConfigError, match="a quote is not closed"):
        list(split_options('exclude="*.a,ro'))


def test_what_is_meant_for_others_is_left_alone() -> None:
    """What mount(8), systemd and fstab(5) say to each other, and what is so anyway."""
    for text in ("defaults", "rw,_netdev,nofail,noauto", "x-systemd.requires=/a,X-mount.mkdir=0755", "user=eve,group"):
        assert plan_options(text) == plan_options("")


def test_settings_have_their_names_with_either_stroke() -> None:
    asked = plan_options("cache_size=50GiB,warm-after=1d,hot=/ssd,state=/state,config=/etc/x.toml")
    assert asked.flags == {"cache_size": "50GiB", "warm_after": "1d", "hot": "/ssd", "state": "/state"}
    assert asked.config == "/etc/x.toml"
    settings = gather(None, {}, asked.flags).settings
    assert str(settings.cache_size) == "50GiB"


def test_a_bare_name_is_a_yes() -> None:
    settings = gather(None, {}, plan_options("ro,allow_other,shared_hot,auto_archive=no").flags).settings
    assert (settings.read_only, settings.allow_other, settings.shared_hot) == (True, True, True)
    assert not settings.auto_archive
    assert plan_options("take_over").take_over


def test_patterns_may_be_said_one_by_one_or_together() -> None:
    one_by_one, together = plan_options("exclude=*.a,exclude=*.b"), plan_options(r"exclude=*.a\,*.b")
    assert gather(None, {}, one_by_one.flags).settings.exclude == ("*.a", "*.b")
    assert one_by_one == together


def test_noexec_is_known() -> None:
    assert plan_options("noexec,ro").noexec


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("cache_sise=1GiB", "there is no option 'cache_sise', did you mean cache_size?"),
        ("suid", "there is no option 'suid'"),
        ("cache_size", "the option cache_size needs a value"),
        ("hot", "the option hot needs a value"),
        ("remount,ro", "cannot be remounted"),
    ],
)
def test_what_is_wrong_is_said(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        plan_options(text)


def test_sloppy_passes_over_what_it_does_not_know() -> None:
    assert plan_options("intr,hot=/ssd", is_sloppy=True).flags == {"hot": "/ssd"}
    with pytest.raises(ConfigError):
        plan_options("remount", is_sloppy=True)


def test_the_command_line_of_a_helper() -> None:
    assert read_call(["s3://b", "/mnt"]) == Call("s3://b", "/mnt", "")
    call = read_call(["s3://b", "/mnt", "-sfnv", "-o", "rw,a=1", "-o", "b", "-t", "fuse.tierfs"])
    assert call == Call("s3://b", "/mnt", "rw,a=1,b", is_sloppy=True, is_fake=True, is_verbose=True)


@pytest.mark.parametrize("words", [[], ["s3://b"], ["a", "b", "c"], ["a", "b", "-x"], ["a", "b", "-N", "/ns"]])
def test_a_wrong_command_line(words: list[str]) -> None:
    with pytest.raises(ConfigError):
        read_call(words)
