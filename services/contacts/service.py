"""The contacts service: the door and the contacts worker, and their API."""

from pathlib import Path
from typing import Final
from zoneinfo import available_timezones

from services.contacts.app import routers
from services.contacts.door.fields import CURRENCIES
from services.contacts.door.rules import DoorRules
from services.contacts.rules import ContactsRules
from shared.http.credentialed import WithCredentials
from shared.runtime.rules import Rules
from shared.sealing import MasterKey, identity_hash
from shared.service import CREDENTIALS_SQL, Service, WorkerPlan

SQL: Final = Path(__file__).parent / "sql"


def door_rules(master: MasterKey) -> Rules:
    def hashed(tenant: str, kind: str, value: str) -> str:
        return identity_hash(master.identity_secret, tenant, kind, value)

    return WithCredentials(DoorRules(hashed))


def contacts_rules(_master: MasterKey) -> Rules:
    return ContactsRules(available_timezones(), CURRENCIES)


SERVICE: Final = Service(
    name="contacts",
    workers=(
        WorkerPlan("door", door_rules, (SQL / "door", CREDENTIALS_SQL)),
        WorkerPlan("contacts", contacts_rules, (SQL / "contacts",)),
    ),
    routers=routers,
    credentials_worker="door",
)
