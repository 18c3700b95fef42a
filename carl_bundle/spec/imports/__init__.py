"""Other tools' configuration files, translated into a spec."""

from __future__ import annotations

from carl_bundle.spec.imports.detect import FORMATS, Format, detect
from carl_bundle.spec.imports.translate import Imported, translate

__all__ = ["FORMATS", "Format", "Imported", "detect", "translate"]
