"""Settings from the environment: read once in `__main__`, checked, and passed on.

Every name may be given for one service alone: `REGULARS_POINTS_DATABASE_URL` goes before `REGULARS_DATABASE_URL`.
Secrets may be given in a file: `REGULARS_MASTER_KEY_FILE` instead of `REGULARS_MASTER_KEY`. A server that brings its
own database or keys (the demo) passes them in the mapping under the same names.
"""

import base64
import binascii
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

PREFIX: Final = "REGULARS"
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
ADMIN_KEY_CHARACTERS_MIN: Final = 24
MASTER_KEY_BYTES: Final = 32

GENERATE_MASTER_KEY: Final = "head -c 32 /dev/urandom | base64"
GENERATE_ADMIN_KEY: Final = "head -c 32 /dev/urandom | base64 | tr -d '+/='"


class SettingsError(ValueError):
    """A setting is missing or wrong; the message names the variable and says what to set."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What one service process needs to know of its surroundings."""

    service: str
    database_url: str = field(repr=False)
    log_url: str = field(repr=False)
    """`postgresql://…` (the embedded log) or `kafka://host:port,host:port`; the database's own URL when unset."""
    master_key: bytes = field(repr=False)
    """Wraps the contacts' data keys: 32 bytes."""
    admin_key: str = field(repr=False)
    """The operator's bearer key: creates tenants and issues their first credentials."""
    host: str
    port: int
    log_level: str
    inbox_generation: int = 1
    """Of the inbox topics: `regulars log copy` says when to raise it."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], service: str) -> Self:
        """Read and check all settings of `service`; raises SettingsError for the first that is missing or wrong."""
        source = _Source(environment, service)
        database_url = source.url("DATABASE_URL", ("postgresql", "postgres"), "postgresql://user@host:5432/regulars")
        return cls(
            service=service,
            database_url=database_url,
            log_url=source.url("LOG_URL", ("postgresql", "postgres", "kafka"), "kafka://host:9092", database_url),
            master_key=_master_key(*source.secret("MASTER_KEY", GENERATE_MASTER_KEY)),
            admin_key=_admin_key(*source.secret("ADMIN_KEY", GENERATE_ADMIN_KEY)),
            host=source.text("HOST", "127.0.0.1"),
            port=source.whole_number("PORT", 8080, 0, 65535),
            log_level=source.one_of("LOG_LEVEL", LOG_LEVELS, "info"),
            inbox_generation=source.whole_number("INBOX_GENERATION", 1, 1, 9_999),
        )


@dataclass(frozen=True, slots=True)
class _Source:
    environment: Mapping[str, str]
    service: str

    def find(self, name: str) -> tuple[str, str]:
        """The variable that is set (the service's own goes first) and its value; an empty value counts as unset."""
        for variable in (f"{PREFIX}_{self.service.upper()}_{name}", f"{PREFIX}_{name}"):
            if value := self.environment.get(variable, "").strip():
                return variable, value
        return f"{PREFIX}_{name}", ""

    def text(self, name: str, default: str) -> str:
        return self.find(name)[1] or default

    def url(self, name: str, schemes: tuple[str, ...], example: str, default: str = "") -> str:
        variable, value = self.find(name)
        if not value and default:
            return default
        if not value:
            raise SettingsError(f"{variable} is not set; set it to something like {example}")
        try:
            scheme = urlsplit(value).scheme
        except ValueError:
            scheme = ""
        if scheme not in schemes:
            raise SettingsError(
                f"{variable} must begin with {' or '.join(f'{s}://' for s in schemes)}, as in {example}"
            )
        return value

    def whole_number(self, name: str, default: int, least: int, most: int) -> int:
        variable, value = self.find(name)
        if not value:
            return default
        if not (value.isascii() and value.isdigit() and len(value) <= 10 and least <= int(value) <= most):
            raise SettingsError(f"{variable} must be a whole number from {least} to {most}")
        return int(value)

    def one_of(self, name: str, choices: tuple[str, ...], default: str) -> str:
        variable, value = self.find(name)
        chosen = (value or default).lower()
        if chosen not in choices:
            raise SettingsError(f"{variable} must be one of {', '.join(choices)}")
        return chosen

    def secret(self, name: str, generate: str) -> tuple[str, str]:
        """The variable that holds the secret, and the secret; raises SettingsError when neither or both forms are."""
        variable, value = self.find(name)
        file_variable, path = self.find(f"{name}_FILE")
        if value and path:
            raise SettingsError(f"{variable} and {file_variable} are both set; keep one of them")
        if path:
            return file_variable, _read_private(file_variable, Path(path))
        if not value:
            raise SettingsError(
                f"{variable} is not set; set it, or {file_variable} to a file with mode 0600 ({generate})"
            )
        return variable, value


def _read_private(variable: str, path: Path) -> str:
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode) and mode & 0o077:
            raise SettingsError(f"{variable}: {path} can be read by others; run chmod 600 {path}")
        return path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{variable}: {path} cannot be read ({type(error).__name__})") from None


def _master_key(variable: str, text: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != MASTER_KEY_BYTES:
        raise SettingsError(
            f"{variable} must be {MASTER_KEY_BYTES} bytes in base64; make one with {GENERATE_MASTER_KEY}"
        )
    return key


def _admin_key(variable: str, text: str) -> str:
    visible = text.isascii() and text.isprintable() and " " not in text
    if not visible or not ADMIN_KEY_CHARACTERS_MIN <= len(text) <= 200:
        raise SettingsError(
            f"{variable} must be {ADMIN_KEY_CHARACTERS_MIN} to 200 visible ASCII characters; "
            f"make one with {GENERATE_ADMIN_KEY}"
        )
    return text
