"""Settings: read once, checked, and each complaint names the variable and says what to set."""

import base64
from pathlib import Path

import pytest

from shared.settings import Settings, SettingsError

MASTER = base64.b64encode(bytes(range(32))).decode()
ENOUGH = {
    "REGULARS_DATABASE_URL": "postgresql://me:pw@db/regulars",
    "REGULARS_MASTER_KEY": MASTER,
    "REGULARS_ADMIN_KEY": "a" * 24,
}


def test_the_least_that_is_enough() -> None:
    settings = Settings.from_environment(ENOUGH, "points")
    assert settings.database_url == settings.log_url == ENOUGH["REGULARS_DATABASE_URL"]
    assert settings.master_key == bytes(range(32))
    assert (settings.host, settings.port, settings.log_level) == ("127.0.0.1", 8080, "info")


def test_a_services_own_variable_goes_first() -> None:
    environment = ENOUGH | {
        "REGULARS_POINTS_DATABASE_URL": "postgresql://points",
        "REGULARS_LOG_URL": "kafka://a:9092,b:9092",
        "REGULARS_PORT": "1",
        "REGULARS_POINTS_PORT": "2",
        "REGULARS_LOG_LEVEL": "DEBUG",
    }
    points = Settings.from_environment(environment, "points")
    contacts = Settings.from_environment(environment, "contacts")
    assert (points.database_url, points.port) == ("postgresql://points", 2)
    assert (contacts.database_url, contacts.port) == (ENOUGH["REGULARS_DATABASE_URL"], 1)
    assert points.log_url == "kafka://a:9092,b:9092"
    assert points.log_level == "debug"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"REGULARS_DATABASE_URL": ""}, "REGULARS_DATABASE_URL is not set"),
        ({"REGULARS_DATABASE_URL": "mysql://x"}, "REGULARS_DATABASE_URL must begin with postgresql://"),
        ({"REGULARS_POINTS_DATABASE_URL": "http://["}, "REGULARS_POINTS_DATABASE_URL must begin"),
        ({"REGULARS_LOG_URL": "redis://x"}, "REGULARS_LOG_URL must begin"),
        ({"REGULARS_MASTER_KEY": ""}, "REGULARS_MASTER_KEY is not set; set it, or REGULARS_MASTER_KEY_FILE"),
        ({"REGULARS_MASTER_KEY": "short"}, "REGULARS_MASTER_KEY must be 32 bytes in base64"),
        ({"REGULARS_MASTER_KEY": "é"}, "REGULARS_MASTER_KEY must be 32 bytes in base64"),
        ({"REGULARS_MASTER_KEY_FILE": "/x"}, "both set"),
        ({"REGULARS_ADMIN_KEY": "short"}, "REGULARS_ADMIN_KEY must be 24 to 200 visible"),
        ({"REGULARS_ADMIN_KEY": "a b" * 10}, "REGULARS_ADMIN_KEY must be 24 to 200 visible"),
        ({"REGULARS_PORT": "65536"}, "REGULARS_PORT must be a whole number from 0 to 65535"),
        ({"REGULARS_PORT": "-1"}, "REGULARS_PORT must be"),
        ({"REGULARS_PORT": "²"}, "REGULARS_PORT must be"),
        ({"REGULARS_LOG_LEVEL": "loud"}, "REGULARS_LOG_LEVEL must be one of debug, info"),
    ],
)
def test_a_missing_or_wrong_setting_is_named(change: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError) as raised:
        Settings.from_environment(ENOUGH | change, "points")
    assert named in str(raised.value)


def test_a_secret_in_a_private_file_is_read_and_one_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    path.write_text(MASTER + "\n")
    environment = {name: value for name, value in ENOUGH.items() if name != "REGULARS_MASTER_KEY"}
    environment["REGULARS_MASTER_KEY_FILE"] = str(path)
    path.chmod(0o600)
    assert Settings.from_environment(environment, "points").master_key == bytes(range(32))
    path.chmod(0o640)
    with pytest.raises(SettingsError, match="chmod 600"):
        Settings.from_environment(environment, "points")
    path.unlink()
    with pytest.raises(SettingsError, match=r"REGULARS_MASTER_KEY_FILE: .* cannot be read"):
        Settings.from_environment(environment, "points")


def test_no_secret_shows_in_a_trace_or_a_complaint() -> None:
    assert "pw" not in repr(Settings.from_environment(ENOUGH, "points"))
    assert "aaaa" not in repr(Settings.from_environment(ENOUGH, "points"))
    with pytest.raises(SettingsError) as raised:
        Settings.from_environment(ENOUGH | {"REGULARS_MASTER_KEY": "hunter2"}, "points")
    assert "hunter2" not in str(raised.value)
