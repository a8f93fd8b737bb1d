"""The points service: its worker and its API."""

from pathlib import Path
from typing import Final

from services.points.app import routers
from services.points.rules import PointsRules
from shared.http.credentialed import WithCredentials
from shared.runtime.rules import Rules
from shared.sealing import MasterKey
from shared.service import CREDENTIALS_SQL, Service, WorkerPlan

SQL: Final = Path(__file__).parent / "sql"


def points_rules(_master: MasterKey) -> Rules:
    return WithCredentials(PointsRules())


SERVICE: Final = Service(
    name="points",
    workers=(WorkerPlan("points", points_rules, (SQL, CREDENTIALS_SQL)),),
    routers=routers,
    credentials_worker="points",
)
