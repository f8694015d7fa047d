"""Settings: what people write is what the program counts, and nonsense is refused by name."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierfs.core.config import Given, MountRequest, Settings, settings_from
from tierfs.core.errors import ConfigError
from tierfs.core.quantities import Age, Size, Watermark, parse_age, parse_size, parse_watermark

S = 10**9
DAY = 86_400 * S


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("7d", 7 * DAY),
        ("168h", 7 * DAY),
        ("1w", 7 * DAY),
        ("90s", 90 * S),
        ("10m", 600 * S),
        ("10min", 600 * S),
        ("1h30m", 5400 * S),
        ("1h 30m", 5400 * S),
        ("2 days", 2 * DAY),
        ("1.5h", 5400 * S),
        ("250ms", S // 4),
        ("5us", 5000),
        ("7ns", 7),
        (" 7D ", 7 * DAY),
        ("0", 0),
        ("0s", 0),
        ("90", 90 * S),
        ("0.5", S // 2),
        (90, 90 * S),
        (1.5, S + S // 2),
        (0, 0),
    ],
)
def test_ages(text: object, nanoseconds: int) -> None:
    assert parse_age(text) == nanoseconds


@pytest.mark.parametrize(
    "nonsense",
    [
        "",
        " ",
        "d",
        "7 x",
        "-1s",
        "7d-",
        "1..5s",
        "1e3",
        "s7",
        "７d",
        "1h30",
        None,
        True,
        [],
        -1,
        float("inf"),
        float("nan"),
    ],
)
def test_what_is_not_an_age(nonsense: object) -> None:
    with pytest.raises(ValueError, match="is not an age: write it as"):
        parse_age(nonsense)


def test_an_age_that_no_clock_holds() -> None:
    with pytest.raises(ValueError, match="too long"):
        parse_age("300000000w")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("1b", 1),
        ("4KiB", 4096),
        ("4k", 4096),
        ("4K", 4096),
        ("4kB", 4000),
        ("4KB", 4000),
        ("10GiB", 10 << 30),
        ("10 GiB", 10 << 30),
        ("10gib", 10 << 30),
        ("10G", 10 << 30),
        ("10GB", 10 * 10**9),
        ("1.5G", 3 << 29),
        ("0.1K", 102),
        ("2T", 2 << 40),
        ("2TB", 2 * 10**12),
        (4096, 4096),
        (4096.0, 4096),
    ],
)
def test_sizes(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("nonsense", ["", "G", "1.5", "1.5b", "10X", "-1", "1e3", "10GiBs", "1 2", None, True, -1, 1.5])
def test_what_is_not_a_size(nonsense: object) -> None:
    with pytest.raises(ValueError, match="is not a size: write it as"):
        parse_size(nonsense)


def test_a_size_that_no_kernel_holds() -> None:
    with pytest.raises(ValueError, match="too large"):
        parse_size("8388608T")


@given(st.integers(0, 2**63 - 1))
def test_what_is_printed_is_read_back_without_loss(number: int) -> None:
    assert parse_age(str(Age(number))) == number
    assert parse_size(str(Size(number))) == number
    assert parse_watermark(str(Watermark(Size(number), is_percent=False))) == Watermark(number, is_percent=False)


@given(st.text(alphabet="0123456789.dhmswkKGiB% -", max_size=8))
def test_any_text_is_read_or_refused_with_valueerror(text: str) -> None:
    for parse in (parse_age, parse_size, parse_watermark):
        try:
            parse(text)
        except ValueError:
            pass


def test_how_ages_and_sizes_print() -> None:
    assert [str(parse_age(text)) for text in ("7d", "90m", "3600", "0", "1500ms")] == [
        "7d",
        "90m",
        "1h",
        "0s",
        "1500ms",
    ]
    assert [str(parse_size(text)) for text in ("10GiB", "1536", "1K", "0")] == ["10GiB", "1536", "1KiB", "0"]
    assert f"{parse_age('7d')} {parse_size('1M')}" == "7d 1MiB"
    assert parse_age("1500ms").seconds == 1.5


def test_a_watermark_in_percent_looks_at_the_filesystem_and_one_in_bytes_at_the_hot_tier() -> None:
    assert parse_watermark("90%").excess_bytes(hot_bytes=1, used_bytes=950, capacity_bytes=1000) == 50
    assert parse_watermark("90%").excess_bytes(hot_bytes=1, used_bytes=900, capacity_bytes=1000) == 0
    assert parse_watermark("100").excess_bytes(hot_bytes=130, used_bytes=950, capacity_bytes=1000) == 30
    assert str(parse_watermark("87.5%")) == "87.5%"


@pytest.mark.parametrize("nonsense", ["0%", "101%", "%", "-5%", "x%", "many", None])
def test_what_is_not_a_watermark(nonsense: object) -> None:
    with pytest.raises(ValueError, match="is not a"):
        parse_watermark(nonsense)


def test_the_defaults_are_valid_and_survive_another_process() -> None:
    settings = Settings()
    assert Settings.of() == settings
    assert Settings.model_validate_json(settings.model_dump_json()) == settings
    assert settings.warm_after == DAY
    assert settings.cold_after == 7 * DAY
    assert settings.chunk_size == 1 << 20


def test_every_setting_is_described_in_a_sentence() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().read_only = True  # type: ignore[misc]


def test_a_request_survives_another_process() -> None:
    settings = Settings.of(warm_after="1500ms", include=["a,b", "*.log"], path_style=True)
    request = MountRequest("s3://bucket", "/m\udcff", "/h", "/s", settings, foreground=True)
    assert MountRequest.from_json(request.to_json()) == request
    assert not request.in_place


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"warm_afer": "1d"}, "warm_afer is not a setting, did you mean warm_after?"),
        ({"qqqqqqqq": 1}, "qqqqqqqq is not a setting: `tierfs config show` lists them"),
        ({"warm_after": "soon"}, "warm_after: 'soon' is not an age: write it as 90s, 10m, 168h, 7d or 1w"),
        ({"cache_size": "big"}, "cache_size: 'big' is not a size: write it as 4096, 64KiB, 1.5G or 10GiB"),
        (
            {"high_watermark": "many"},
            "high_watermark: 'many' is not a watermark: write it as 90% or as a size like 400GiB",
        ),
        ({"chunk_size": 1000}, "chunk_size: 1000 is not a power of two from 4 bytes to 64MiB"),
        ({"chunk_size": 2}, "chunk_size: 2 is not a power of two from 4 bytes to 64MiB"),
        ({"chunk_size": 0}, "chunk_size: 0 is not a power of two from 4 bytes to 64MiB"),
        ({"timeout": 0}, "timeout: it must be longer than 0"),
        ({"pool_size": 0}, "pool_size: 0 is not valid: input should be greater than or equal to 1"),
        ({"cold_errors": "zeros"}, "cold_errors: 'zeros' is not valid: input should be 'eio' or 'block'"),
        (
            {"endpoint_url": "minio:9000"},
            "endpoint_url: 'minio:9000' is not a URL: write it as http://HOST:PORT or https://HOST",
        ),
        ({"exclude": ["a", ""]}, "exclude: a pattern is empty"),
        (
            {"cold_after": "1h"},
            "cold_after (1h) is shorter than warm_after (1d): "
            "a file is archived before it is released, so make it at least as long",
        ),
        ({"low_watermark": "90%"}, "low_watermark (90%) is not below high_watermark (90%): make it smaller"),
        (
            {"low_watermark": "1G"},
            "low_watermark (1GiB) and high_watermark (90%) cannot be compared: write both in percent or both in bytes",
        ),
        (
            {"read_ahead": "64K"},
            "read_ahead (64KiB) is smaller than chunk_size (1MiB): make it 0 or at least one chunk",
        ),
        (
            {"cache_size": "64K"},
            "cache_size (64KiB) is smaller than chunk_size (1MiB): make it 0 or at least one chunk",
        ),
    ],
)
def test_nonsense_is_refused_by_name_and_says_what_to_do(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        Settings.of(**values)


def test_the_smallest_values_that_make_sense() -> None:
    Settings.of(chunk_size=4, cache_size=0, read_ahead=0, warm_after=0, cold_after=0, settle=0, min_size=0)


def test_every_mistake_is_said_in_a_line_of_its_own_with_its_source() -> None:
    given = {
        "warm_after": Given("soon", "--warm-after"),
        "pool_size": Given("x", "the environment variable TIERFS_POOL_SIZE"),
        "colour": Given(1, "colour in /etc/t.toml"),
    }
    with pytest.raises(ConfigError) as caught:
        settings_from(given)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert {"--warm-after", "the environment variable TIERFS_POOL_SIZE", "colour in /etc/t.toml"} == {
        source for source in (one.source for one in given.values()) if any(line.startswith(source) for line in lines)
    }


def test_a_cross_check_names_both_sources() -> None:
    with pytest.raises(ConfigError, match=r"^the default of cold_after \(7d\) is shorter than --warm-after \(9d\): "):
        settings_from({"warm_after": Given("9d", "--warm-after")})


@pytest.mark.parametrize(("text", "value"), [("auto", None), ("", None), ("yes", True), ("false", False), ("0", False)])
def test_a_yes_or_no_that_can_be_left_to_tierfs(text: str, value: bool | None) -> None:
    assert Settings.of(path_style=text).path_style is value


def test_an_empty_text_is_unset_and_auto_is_a_region() -> None:
    assert Settings.of(region="", storage_class="", endpoint_url="").region is None
    assert Settings.of(region="auto").region == "auto"


def test_patterns_in_one_text_are_separated_by_commas() -> None:
    assert Settings.of(include="*.log, *.index ,").include == ("*.log", "*.index")
    assert Settings.of(include=["a,b"]).include == ("a,b",)
