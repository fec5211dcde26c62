"""The version of this build; pyproject.toml reads it from here."""

VERSION = "0.2.0.dev"
