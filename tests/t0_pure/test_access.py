"""Rules for who may have cold bytes fetched."""

import pytest

from tierfs.core.access import Access, Rule, decide, parse_rule, split_rules
from tierfs.core.config import Settings
from tierfs.core.errors import ConfigError


def asked(*rules: str, uid: int = 5, gid: int = 6, command: str = "cat") -> Access:
    """What these rules say of a process."""
    return decide(map(parse_rule, rules), uid, gid, lambda: command)


def test_the_first_rule_that_fits_decides() -> None:
    assert asked("allow command=cat", "deny command=cat") is Access.ALLOW
    assert asked("deny command=dog", "limit uid=5", "deny") is Access.LIMIT
    assert asked("deny command=dog") is Access.ALLOW
    assert asked("deny") is Access.DENY
    assert asked() is Access.ALLOW


def test_alternatives_and_conditions() -> None:
    assert asked("deny command=dog,cat") is Access.DENY
    assert asked("deny command=dog,cat uid=7") is Access.ALLOW
    assert asked("limit command=c* gid=6 uid=7,5") is Access.LIMIT


def test_a_command_is_compared_as_the_kernel_keeps_it() -> None:
    assert asked("deny command=a-very-long-command-name", command="a-very-long-com") is Access.DENY
    assert asked("deny command=a-very-long-c*", command="a-very-long-com") is Access.DENY
    assert asked("deny command=*", command="") is Access.ALLOW, "nobody knows the name of a process that is gone"


def test_the_command_is_asked_only_where_it_matters() -> None:
    def never() -> str:
        raise AssertionError("asked")

    assert decide([parse_rule("deny uid=9 command=cat"), parse_rule("limit uid=5")], 5, 6, never) is Access.LIMIT


@pytest.mark.parametrize("text", ["", "refuse uid=5", "deny cat", "deny uid=", "deny uid=1,,2", "deny uid=1 uid=2"])
def test_nonsense_is_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_rule(text)
    with pytest.raises(ConfigError, match="access"):
        Settings.of(access=[text])


def test_a_rule_is_read() -> None:
    assert parse_rule("LIMIT  uid=backup,7 command=tar") == Rule(Access.LIMIT, ("backup", "7"), (), ("tar",))


def test_rules_in_one_text() -> None:
    """As the environment has them, and several options of mount(8)."""
    expected = ("deny command=clamscan", "limit command=updatedb,find", "allow")
    assert Settings.of(access="deny command=clamscan; limit  command=updatedb,find;allow").access == expected
    assert tuple(split_rules("deny command=clamscan, limit command=updatedb,find;,allow uid=3")[:2]) == expected[:2]
    assert Settings.of(access="").access == ()


def test_settings_are_their_own_text() -> None:
    settings = Settings.of(access=["deny uid=3 command=x,y"], hydrate_rate="3MiB")
    assert Settings.model_validate_json(settings.model_dump_json()) == settings


def test_who_is_limited_gets_something() -> None:
    with pytest.raises(ConfigError, match="limited_rate"):
        Settings.of(access=["limit uid=3"], limited_rate=0)
