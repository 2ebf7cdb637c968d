"""Fills the database of PGDATABASE with django-ledger's tables and generated business. Runs in an environment apart."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import django
from django.conf import settings
from django.core.management import call_command

APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django_ledger",
]

settings.configure(
    SECRET_KEY="none that matters",
    INSTALLED_APPS=APPS,
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": os.environ["PGDATABASE"],
            "USER": os.environ["PGUSER"],
            "PASSWORD": os.environ["PGPASSWORD"],
            "HOST": os.environ["PGHOST"],
            "PORT": os.environ["PGPORT"],
        }
    },
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    USE_TZ=True,
    TIME_ZONE="UTC",
    LOGGING_CONFIG=None,
)
django.setup()

from django.contrib.auth import get_user_model  # noqa: E402 - only after the settings
from django_ledger.models import EntityModel  # noqa: E402

call_command("migrate", verbosity=0)
admin = get_user_model().objects.create_user("admin", "admin@example.com", "a password")
entity = EntityModel.create_entity(name="Müller & Söhne", use_accrual_method=True, admin=admin, fy_start_month=1)
entity.populate_random_data(start_date=datetime(2026, 1, 5, tzinfo=UTC), days_forward=120, tx_quantity=8)
