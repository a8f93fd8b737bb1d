"""The directory that holds an installation without a database given: keys, embedded Postgres, one server at a time."""

import base64
import stat
from pathlib import Path

import asyncpg
import pytest

from regulars.server import Busy, chosen, in_use, is_embedded, surroundings
from shared.embedded_postgres import THROWAWAY
from shared.settings import SettingsError

GIVEN = "postgresql://regulars@db/regulars"


async def test_a_new_directory_gets_keys_and_a_database_and_keeps_them(tmp_path: Path) -> None:
    said: list[str] = []
    with surroundings(tmp_path / "var", {}, postgres=THROWAWAY, say=said.append, alone=True) as parts:
        assert [part.service.name for part in parts] == ["contacts", "points"]
        first = parts[0].settings
        assert len(first.master_key) == 32
        assert first.admin_key.startswith("rk_admin_")
        assert first.log_url == first.database_url
        connection = await asyncpg.connect(first.database_url)
        assert await connection.fetchval("select 7") == 7
        await connection.close()
        assert in_use(tmp_path / "var")
        with pytest.raises(Busy, match="another command is running"):
            with surroundings(tmp_path / "var", {}, alone=True):
                pass
        with surroundings(tmp_path / "var", {}) as beside:
            assert beside[0].settings == first
        connection = await asyncpg.connect(first.database_url)
        await connection.close()
    assert [line.startswith("made ") and line.endswith("(mode 0600)") for line in said] == [True, True]
    for name in ("master.key", "admin.key"):
        assert stat.S_IMODE((tmp_path / "var" / name).stat().st_mode) == 0o600
    assert not in_use(tmp_path / "var")
    assert not (tmp_path / "var" / "postgres" / "postmaster.pid").exists(), "the database ended with the last command"
    said.clear()
    with surroundings(tmp_path / "var", {}, postgres=THROWAWAY, say=said.append) as parts:
        assert (parts[0].settings.master_key, parts[0].settings.admin_key) == (first.master_key, first.admin_key)
    assert said == []


def test_a_given_database_needs_given_keys(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="REGULARS_MASTER_KEY"):
        with surroundings(tmp_path / "var", {"REGULARS_DATABASE_URL": GIVEN}):
            pass
    assert not (tmp_path / "var").exists()
    keys = {"REGULARS_MASTER_KEY": base64.b64encode(b"k" * 32).decode(), "REGULARS_ADMIN_KEY": "a" * 30}
    with surroundings(tmp_path / "var", {"REGULARS_DATABASE_URL": GIVEN, **keys}) as parts:
        assert {part.settings.database_url for part in parts} == {GIVEN}


def test_the_embedded_database_serves_where_one_service_has_none() -> None:
    assert is_embedded({})
    assert is_embedded({"REGULARS_POINTS_DATABASE_URL": GIVEN})
    assert not is_embedded({"REGULARS_DATABASE_URL": GIVEN})
    assert not is_embedded({"REGULARS_POINTS_DATABASE_URL": GIVEN, "REGULARS_CONTACTS_DATABASE_URL": GIVEN})
    assert not is_embedded({"REGULARS_POINTS_DATABASE_URL": GIVEN}, chosen(["points"]))


def test_services_are_chosen_by_name() -> None:
    assert [service.name for service in chosen(["points"])] == ["points"]
    assert [service.name for service in chosen([])] == ["contacts", "points"]
    with pytest.raises(ValueError, match="no service poinst; there are contacts, points"):
        chosen(["poinst"])
