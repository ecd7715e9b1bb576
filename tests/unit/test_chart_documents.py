"""What stands beside the chart's templates agrees with its values and with the code."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from forebay_common import __version__, limits
from forebay_common.acl import gateway_acl
from forebay_controller.cluster.process_endpoints import ProcessMetrics
from forebay_controller.metrics import Metrics
from forebay_gateway.counters import Counters
from forebay_gateway.metrics import registry
from support.chart_values import CHARTS, generator

CHART = CHARTS / "forebay"
SUFFIXES = ("", "_total", "_bucket", "_sum", "_count")
METRIC = re.compile(r"\bforebay_[a-z_]+\b")


def test_the_schema_is_what_the_values_comments_say() -> None:
    module = generator()
    assert module.SCHEMA.read_text() == module.schema_text(module.read(module.VALUES.read_text()))


def test_the_readme_has_every_value_as_its_comment_says() -> None:
    module = generator()
    text = module.README.read_text()
    assert text == module.readme_text(text, module.read(module.VALUES.read_text()))


def test_a_value_without_a_text_is_refused() -> None:
    with pytest.raises(ValueError, match=r"line 3: a\.b has no text"):
        generator().read("a:\n  # a comment, but no text\n  b: 1\n")


def test_a_comments_schema_members_go_over_what_the_default_shows() -> None:
    (value,) = generator().read('# -- How many.\n# @schema {"minimum": 1}\ncount: 2\n').values()
    assert value.schema() == {"description": "How many.", "type": "integer", "minimum": 1, "default": 2}


def test_the_chart_is_of_the_platforms_version() -> None:
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == __version__


def test_dead_letters_that_are_about_to_be_dropped_raise_an_alert_before() -> None:
    alerts = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())["alerts"]
    (full,) = [alert for alert in alerts if alert["alert"] == "ForebayDeadLettersFull"]
    assert int(full["expr"].rpartition(" ")[2]) < limits.DEAD_LETTERS_MAX
    assert f"above {limits.DEAD_LETTERS_MAX} the oldest go" in full["annotations"]["description"]


def expressions() -> Iterator[str]:
    """Everything that alerts and dashboard ask Prometheus for."""
    for alert in yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())["alerts"]:
        yield alert["expr"]
    dashboard = yaml.safe_load((CHART / "files" / "dashboard.json").read_text())
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    yield from (variable["definition"] for variable in dashboard["templating"]["list"] if "definition" in variable)


def leading() -> Iterable[Metric]:
    """What a controller on a cluster has beside them."""
    return text_string_to_metric_families(ProcessMetrics().render().decode())


def counted() -> set[str]:
    """The names of all samples that gateway and controller can give."""
    families = [*registry(Counters(), {}).collect(), *Metrics().registry.collect(), *leading()]
    return {family.name + suffix for family in families for suffix in SUFFIXES}


def test_alerts_and_dashboard_ask_for_metrics_that_exist() -> None:
    asked = {name for expression in expressions() for name in METRIC.findall(expression)}
    assert len(asked) > 10
    assert asked - counted() == set()


def test_every_alert_says_how_bad_it_is_and_what_to_look_at() -> None:
    alerts: list[dict[str, Any]] = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())["alerts"]
    for alert in alerts:
        assert alert["labels"]["severity"] in {"warning", "critical"}
        assert set(alert["annotations"]) == {"summary", "description"}


def rights(component: str, prefix: str) -> str:
    """A component's rules in the bundled Valkey, as the chart writes them."""
    text = Path(CHART / "files" / f"{component}-rights.acl").read_text()
    return " ".join(text.replace("PREFIX", prefix).split("\n")).strip()


def test_the_gateways_rights_are_those_that_the_code_names() -> None:
    assert rights("gateway", "pool") == " ".join(gateway_acl("pool"))
