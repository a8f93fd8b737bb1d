"""Which rows a table's load query would look at, by the plan that a session of the store keeps for ever."""

import json
from collections.abc import Collection, Iterator
from typing import Any, Final

from shared.runtime.postgres_session import Connection, SessionSettings, server_settings
from shared.runtime.tables import Table

SIZES: Final = (0, 10, 40, 150, 600, 2500)
"""Rows in the table when the plan is made: a bad one was chosen at some hundreds, and read 100,000 rows a day later."""

VALUES: Final = {
    "text": "'x' || number",
    "boolean": "true",
    "jsonb": "'{}'",
    "timestamp with time zone": "now()",
}
FILL: Final = "insert into pg_temp.<table> select <values> from generate_series(1, $1::int) as number"
COLUMNS: Final = """
select attname, format_type(atttypid, atttypmod) as type from pg_attribute
where attrelid = to_regclass($1) and attnum > 0 order by attnum
"""


async def scans_beside_the_key(
    connection: Connection, table: Table[Any], by: Collection[str] | None = None
) -> list[str]:
    """The scans that find a group by less than its columns, in the plans made at each size, analysed or not.

    `by`: the columns that must be enough, where an index has but some of the group's.
    """
    found: list[str] = []
    for rows in SIZES:
        for analysed in (False, True):
            conditions = await _conditions(connection, table, rows, analysed)
            assert conditions, f"{table.name} is not looked at"
            found += [
                f"planned at {rows} rows, {analysed=}: {condition}"
                for condition in conditions
                if not all(f"{name} = " in condition.replace('"', "") for name in by or table.group)
            ]
    return found


async def _conditions(connection: Connection, table: Table[Any], rows: int, analysed: bool) -> list[str]:
    """Of each scan of the table, the index condition; empty where it has none."""
    types = {each["attname"]: each["type"] for each in await connection.fetch(COLUMNS, table.name)}
    values = ", ".join(f"({VALUES.get(of_type, 'number')})::{of_type}" for of_type in types.values())
    settings = server_settings(SessionSettings(), "test", "")
    planner = {name: value for name, value in settings.items() if name.startswith("enable_") or name == "jit"}
    transaction = connection.transaction()
    await transaction.start()
    try:
        for name, value in {**planner, "plan_cache_mode": "force_generic_plan"}.items():
            await connection.execute("select set_config($1, $2, true)", name, value)
        await connection.execute(f"create temp table {table.name} (like {table.name} including indexes) on commit drop")
        await connection.execute(FILL.replace("<table>", table.name).replace("<values>", values), rows)
        if analysed:
            await connection.execute(f"analyze pg_temp.{table.name}")
        await connection.execute("prepare asked as " + table.load)
        given = ", ".join(f"array['1']::{types[name]}[]" for name in table.group)
        plan = json.loads(await connection.fetchval(f"explain (format json) execute asked ({given})"))
        await connection.execute("deallocate asked")
    finally:
        await transaction.rollback()
    return [
        str(node.get("Index Cond", "")) for node in _nodes(plan[0]["Plan"]) if node.get("Relation Name") == table.name
    ]


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from _nodes(part)
