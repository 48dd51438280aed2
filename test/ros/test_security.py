# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The example security policy grants exactly the topics and services of the node."""

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any
from xml.etree import ElementTree

import yaml

from policy_node.config.package_files import share_path

NODE = "policy_node"


def granted(group: str, right: str) -> set[str]:
    """Return the names that the policy allows the node: topics to `publish` or `subscribe`, services to `reply` to."""
    enclave = ElementTree.parse(share_path("config", "sros2", "policy.xml")).find(f".//enclave[@path='/{NODE}']")
    assert enclave is not None
    names = enclave.iterfind(f".//{group}[@{right}='ALLOW']/*")
    return {str(name.text).replace("~", f"/{NODE}") for name in names}


def all_open(patterns: set[str], opened: set[str]) -> bool:
    """Return whether every pattern matches a name that is open."""
    return all(any(fnmatchcase(name, pattern) for name in opened) for pattern in patterns)


def assert_least(patterns: set[str], opened: set[str]) -> None:
    """Every open name matches a pattern, and every pattern matches an open name."""
    assert opened == {name for name in opened if any(fnmatchcase(name, pattern) for pattern in patterns)}
    assert all_open(patterns, opened)


def test_the_example_grants_exactly_the_topics_and_services_of_the_node(
    start_node: Callable[..., Any], peer: Any
) -> None:
    parameters = yaml.safe_load(share_path("config", "rover.yaml").read_text())["/**"]["ros__parameters"]
    process = start_node({**parameters, "use_sim_time": True})
    process.wait_for(r"\bactive: ")
    node = peer.node

    def opened(names_and_types: Callable[[str, str], list[tuple[str, list[str]]]]) -> set[str]:
        return {name for name, _ in names_and_types(NODE, "/")}

    peer.spin_until(
        lambda: (
            NODE in node.get_node_names()
            and all_open(granted("services", "reply"), opened(node.get_service_names_and_types_by_node))
            and all_open(granted("topics", "publish"), opened(node.get_publisher_names_and_types_by_node))
            and all_open(granted("topics", "subscribe"), opened(node.get_subscriber_names_and_types_by_node))
        ),
        "the node's topics and services",
    )
    peer.spin_for(1.0)
    assert_least(granted("topics", "publish"), opened(node.get_publisher_names_and_types_by_node))
    assert_least(granted("topics", "subscribe"), opened(node.get_subscriber_names_and_types_by_node))
    assert_least(granted("services", "reply"), opened(node.get_service_names_and_types_by_node))
    assert not opened(node.get_client_names_and_types_by_node)
