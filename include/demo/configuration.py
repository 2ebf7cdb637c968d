"""The platform's configuration files, as the guide names them. Every secret in them is made up."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping
from pathlib import Path


def write_configuration(root: Path, settings: Mapping[str, str] | None = None) -> None:
    """Write .env, docker-compose.yml, monitoring/prometheus.yml and k8s/*.yaml below a new folder.

    `settings` are further lines of .env, or stand in for those it has.
    """
    password = secrets.token_urlsafe(18)
    encoded = base64.b64encode(password.encode()).decode()
    for path, text in _FILES.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.replace("PASSWORD_BASE64", encoded).replace("PASSWORD_PLAIN", password), "utf-8")
    for name, value in (settings or {}).items():
        set_in(root / ".env", name, value)
    (root / ".env").chmod(0o600)
    (root / "k8s" / "secret.yaml").chmod(0o600)


def set_in(file: Path, name: str, value: str) -> None:
    """Set a variable in an .env file."""
    lines = [line for line in file.read_text("utf-8").splitlines() if not line.startswith(f"{name}=")]
    file.write_text("\n".join([*lines, f"{name}='{value}'"]) + "\n", "utf-8")


_FILES = {
    ".env": """\
# The platform's settings
DATABASE_URL=postgres://sme:PASSWORD_PLAIN@db:5432/sme_platform_db
REDIS_URL=redis://cache:6379/0
JWT_SECRET=PASSWORD_PLAIN
WORKERS=4
LOG_LEVEL=info
""",
    "docker-compose.yml": """\
services:
  web:
    image: sme/receivables-web:1.4.2
    environment:
      - LOG_LEVEL=info
      - DB_PASSWORD=PASSWORD_PLAIN
    ports: ["8000:8000"]
  worker:
    image: sme/receivables-worker:1.4.2
    env_file: .env
""",
    "monitoring/prometheus.yml": """\
global:
  scrape_interval: 15s
scrape_configs:
  - job_name: receivables
    static_configs:
      - targets: [web:8000]
""",
    "k8s/deployment.yaml": """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: receivables-web
spec:
  replicas: 2
""",
    "k8s/secret.yaml": """\
apiVersion: v1
kind: Secret
metadata:
  name: receivables
data:
  db_password: PASSWORD_BASE64
""",
}
