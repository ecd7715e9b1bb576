"""The gateway's metrics and its OpenAPI document, made from what they are given."""

from typing import Any

from prometheus_client import generate_latest

from forebay_gateway import counters, metrics, openapi
from forebay_gateway.counters import Counters
from forebay_gateway.guard import Rule

OWN: dict[str, Any] = {
    "openapi": "3.1.0",
    "paths": {"/metrics": {"get": {"operationId": "own"}}},
    "components": {"schemas": {"Error": {"title": "own"}}},
}


def test_a_function_that_was_never_called_has_no_series() -> None:
    numbers = Counters()
    numbers.function("default/idle")
    numbers.function("default/busy").outcomes[counters.THROTTLED] += 2
    numbers.function("default/busy").outcomes[counters.NOT_STARTED] += 1
    text = generate_latest(metrics.registry(numbers, {})).decode()
    assert 'function="idle"' not in text
    assert 'forebay_throttles_total{function="busy",namespace="default"} 3.0' in text


def test_each_rule_and_link_has_a_series() -> None:
    numbers = Counters()
    numbers.redis_lost["commands"] = 4
    text = generate_latest(metrics.registry(numbers, {Rule.CROSS_SITE: 5})).decode()
    for rule in Rule:
        count = 5.0 if rule is Rule.CROSS_SITE else 0.0
        assert f'forebay_gateway_refusals_total{{rule="{rule.value}"}} {count}' in text
    assert 'forebay_gateway_redis_losses_total{link="commands"} 4.0' in text


def test_a_functions_series_end_with_it() -> None:
    numbers = Counters()
    numbers.function("default/gone").waiting = 1
    registry = metrics.registry(numbers, {})
    assert b'forebay_in_flight{function="gone",namespace="default"} 1.0' in generate_latest(registry)
    del numbers.functions["default/gone"]
    assert b"gone" not in generate_latest(registry)


def test_the_controllers_paths_are_those_that_are_forwarded_to_it() -> None:
    controller = {
        "paths": {
            "/v1/functions": {"get": {"operationId": "list"}, "parameters": []},
            "/metrics": {"get": {"operationId": "own"}},
            "/healthz": {"get": {}},
        },
        "components": {"schemas": {"Error": {"title": "theirs"}, "Status": {"title": "theirs"}}},
    }
    document = openapi.merged(OWN, controller)
    paths = document["paths"]
    assert set(paths) == {"/metrics", "/fn/{name}", "/fn/{name}/{path}", "/v1/functions", "/controller/metrics"}
    assert paths["/v1/functions"]["get"]["security"] == [{"authorization": []}]
    assert "security" not in paths["/metrics"]["get"]
    assert document["components"]["schemas"] == {"Error": {"title": "own"}, "Status": {"title": "theirs"}}
    assert document["components"]["securitySchemes"]["authorization"]["name"] == "Authorization"


def test_operations_have_ids_of_their_own() -> None:
    document = openapi.merged(OWN, {"paths": {"/metrics": {"get": {"operationId": "own"}}}})
    ids = [
        operation["operationId"]
        for item in document["paths"].values()
        for operation in item.values()
        if isinstance(operation, dict)
    ]
    assert len(ids) == len(set(ids))


def test_merging_leaves_what_it_was_given() -> None:
    openapi.merged(OWN, None)
    assert set(OWN["paths"]) == {"/metrics"}
