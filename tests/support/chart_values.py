"""The chart's values as its own generator of documents reads them."""

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

CHARTS = Path(__file__).parents[2] / "charts"


@cache
def generator() -> ModuleType:
    """charts/document.py, which is a program and in no package."""
    spec = importlib.util.spec_from_file_location("chart_document", CHARTS / "document.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def values_of_the_chart() -> list[Any]:
    """Every value, with its path, text and default."""
    module = generator()
    return list(module.read(module.VALUES.read_text("utf-8")).values())
