"""`python -m services.points`: run the service in a role, migrate, verify, rebuild."""

from services.points.service import SERVICE
from shared.command import main

if __name__ == "__main__":
    main(SERVICE)
