"""Where price tables come from: the one that comes with tierfs, and the operator's own."""

from importlib.resources import files

from tierfs.core.config import Settings
from tierfs.core.errors import ConfigError
from tierfs.core.prices import Rates, StoreKind, price_table, rates_for
from tierfs.stores.address import parse_store

_LARGEST_BYTES = 1 << 20


def builtin_prices() -> str:
    """The table that comes with tierfs, as text."""
    return files("tierfs").joinpath("prices.toml").read_text(encoding="utf-8")


def own_prices(path: str) -> str:
    """The text of an operator's table. ConfigError."""
    try:
        with open(path, "rb") as file:
            text = file.read(_LARGEST_BYTES + 1)
        if len(text) > _LARGEST_BYTES:
            raise ConfigError(f"the price table {path} is larger than a mebibyte: that is no price table")
        return text.decode()
    except OSError as error:
        raise ConfigError(f"the price table {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"the price table {path} is not TOML: it is not UTF-8") from None


def rates_of(store_url: str, settings: Settings, own: str | None = None) -> Rates:
    """The prices of a mount's store: by `own` (the text of a table), else by the settings. ConfigError."""
    name = "the table that was given" if own is not None else str(settings.prices)
    if own is None and settings.prices:
        own = own_prices(settings.prices)
    kind = StoreKind(parse_store(store_url).kind == "file", settings.storage_class, settings.endpoint_url)
    return rates_for(price_table(builtin_prices(), own, name), kind, own is not None)
