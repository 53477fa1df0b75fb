"""A catalog from a file, TOML or JSON by its ending."""

from pathlib import Path

from quota.catalog import Catalog, parse_json, parse_toml
from quota.errors import CatalogInvalid


def read_catalog(file: Path) -> Catalog:
    """CatalogInvalid, each of its errors with the file's name."""
    try:
        return parse_json(file.read_bytes()) if file.suffix == ".json" else parse_toml(file.read_text(encoding="utf-8"))
    except CatalogInvalid as error:
        raise CatalogInvalid([f"{file}: {each}" for each in error.errors]) from error
    except UnicodeDecodeError as error:
        raise CatalogInvalid([f"{file} is not UTF-8: {error}"]) from error
