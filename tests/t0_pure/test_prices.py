"""Price tables: what comes with tierfs, what an operator says, and what holds for a store."""

from decimal import Decimal

import pytest

from tierfs.core.config import Settings
from tierfs.core.errors import ConfigError
from tierfs.core.prices import StoreKind, price_table, rates_for
from tierfs.stores.price_file import builtin_prices, rates_of

BUILTIN = builtin_prices()
CLASSES = "STANDARD STANDARD_IA ONEZONE_IA INTELLIGENT_TIERING GLACIER_IR GLACIER DEEP_ARCHIVE"
BUCKET = StoreKind(is_directory=False)


def test_the_table_that_comes_with_tierfs_has_every_class_and_says_where_it_is_from() -> None:
    table = price_table(BUILTIN)
    assert list(table.classes) == CLASSES.split()
    assert "AWS" in table.source
    assert table.date[:2] == "20"
    infrequent = table.classes["STANDARD_IA"]
    assert (infrequent.gb_month, infrequent.minimum_size) == (Decimal("0.0125"), 128 << 10)
    assert infrequent.minimum_duration == 30 * 86_400 * 10**9


def test_an_own_table_is_laid_over_it() -> None:
    table = price_table(BUILTIN, "ssd_gb_month = 0.1", "mine.toml")
    assert table.ssd_gb_month == Decimal("0.1")
    assert table.source.endswith("; with changes in mine.toml")
    assert table.classes == price_table(BUILTIN).classes


def test_own_classes_are_all_the_classes_that_there_are() -> None:
    own = 'date = "2026"\nsource = "a contract"\n[classes.STANDARD]\ngb_month = 0.005\n'
    table = price_table(BUILTIN, own, "mine.toml")
    assert list(table.classes) == ["STANDARD"]
    assert (table.date, table.source) == ("2026", "a contract")
    assert rates_for(table, BUCKET, is_own=True).store.put_1000 == 0


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ("ssd_gb_month = ", "is not TOML"),
        (f"ssd_gb_month = {'9' * 5000}", "is not TOML"),
        ("ssd_gb_month = 1e99999999999999999999", "is not TOML"),
        (f"ssd_gb_month = {'[' * 100_000}", "is not TOML"),
        ("ssd_gb_month = 1e999999", "ssd_gb_month in mine.toml: "),
        (f"classes.A.minimum_size = '{'9' * 5000}'\ndate = 'd'\nsource = 's'", "classes.A.minimum_size in mine.toml"),
        ("ssd = 1", "ssd in mine.toml is not a price"),
        ("ssd_gb_month = -1", "ssd_gb_month in mine.toml: input should be greater than or equal to 0"),
        ("ssd_gb_month = inf", "ssd_gb_month in mine.toml: "),
        ("ssd_gb_month = nan", "ssd_gb_month in mine.toml: "),
        ("ssd_gb_month = true", "ssd_gb_month in mine.toml: write a number"),
        ("ssd_gb_month = 1e-30", "ssd_gb_month in mine.toml: "),
        ("[classes.A]\ngb_month = 1", "no date or source"),
        ('date = "d"\nsource = "s"\n[classes]', "classes in mine.toml: "),
        ('date = "d"\nsource = "s"\n[classes.A]\nput_1000 = 1', "classes.A.gb_month in mine.toml: field required"),
        (
            'date = "d"\nsource = "s"\n[classes.A]\ngb_month = 1\nminimum_size = "big"',
            "classes.A.minimum_size in mine.toml: 'big' is not a size",
        ),
    ],
    ids=lambda value: value[:25],
)
def test_a_wrong_table_is_refused_with_the_place_in_it(own: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        price_table(BUILTIN, own, "mine.toml")
    assert said in str(caught.value)


def test_a_store_has_the_prices_of_its_class() -> None:
    table = price_table(BUILTIN)
    assert rates_for(table, BUCKET, is_own=False).storage_class == "STANDARD"
    cold = rates_for(table, StoreKind(False, "DEEP_ARCHIVE"), is_own=False)
    assert (cold.storage_class, cold.store.gb_month) == ("DEEP_ARCHIVE", Decimal("0.00099"))
    with pytest.raises(ConfigError, match="no class REDUCED_REDUNDANCY, only STANDARD, "):
        rates_for(table, StoreKind(False, "REDUCED_REDUNDANCY"), is_own=False)


@pytest.mark.parametrize(
    ("endpoint", "is_aws"),
    [
        (None, True),
        ("https://s3.eu-central-1.amazonaws.com", True),
        ("https://amazonaws.com.example.org", False),
        ("https://notamazonaws.com", False),
        ("http://127.0.0.1:9000", False),
    ],
)
def test_another_server_has_no_prices_but_those_of_an_own_table(endpoint: str | None, is_aws: bool) -> None:
    table, kind = price_table(BUILTIN), StoreKind(False, None, endpoint)
    assert kind.is_aws == is_aws
    assert rates_for(table, kind, is_own=True).storage_class == "STANDARD"
    if is_aws:
        assert rates_for(table, kind, is_own=False) == rates_for(table, kind, is_own=True)
    else:
        with pytest.raises(ConfigError, match="nobody knows what the store at"):
            rates_for(table, kind, is_own=False)


def test_a_directory_costs_its_disk_and_nothing_else() -> None:
    rates = rates_for(price_table(BUILTIN, "disk_gb_month = 0.01"), StoreKind(is_directory=True), is_own=True)
    assert (rates.storage_class, rates.egress_gb) == ("", 0)
    assert rates.store.gb_month == Decimal("0.01")
    assert (rates.store.put_1000, rates.store.get_1000, rates.store.retrieval_gb) == (0, 0, 0)


def test_the_setting_names_the_table(tmp_path) -> None:  # type: ignore[no-untyped-def]
    own = tmp_path / "prices.toml"
    own.write_text("ssd_gb_month = 0.5")
    settings = Settings.of(prices=str(own))
    assert rates_of("s3://bucket/p", settings).ssd_gb_month == Decimal("0.5")
    assert rates_of("s3://bucket/p", settings, "ssd_gb_month = 0.25").ssd_gb_month == Decimal("0.25")
    own.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        rates_of("s3://bucket/p", settings)
    own.unlink()
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        rates_of("s3://bucket/p", settings)
    with pytest.raises(ConfigError, match="is not an absolute path"):
        Settings.of(prices="prices.toml")
