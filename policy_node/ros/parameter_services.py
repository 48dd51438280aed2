# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Serve the parameters of a node: the services of rclpy, except that setting may wait without blocking the executor."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from rcl_interfaces.msg import ListParametersResult, SetParametersResult
from rcl_interfaces.srv import (
    DescribeParameters,
    GetParameters,
    GetParameterTypes,
    ListParameters,
    SetParameters,
    SetParametersAtomically,
)
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.exceptions import ParameterNotDeclaredException, ParameterUninitializedException
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_parameters

_MISSING = (ParameterNotDeclaredException, ParameterUninitializedException)


class ParameterServices:
    """Serves the parameters of a node that was created with `start_parameter_services=False`.

    Parameters
    ----------
    node
        Node with the parameters.
    set_parameters
        Sets parameters, all or none. Other requests are served while it waits, also to set parameters.
    """

    def __init__(self, node: Node, set_parameters: Callable[[list[Parameter]], Awaitable[SetParametersResult]]) -> None:
        self._node = node
        self._set_parameters = set_parameters
        setting = ReentrantCallbackGroup()
        for kind, name, callback, group in (
            (GetParameters, "get_parameters", self._get, None),
            (GetParameterTypes, "get_parameter_types", self._get_types, None),
            (DescribeParameters, "describe_parameters", self._describe, None),
            (ListParameters, "list_parameters", self._list, None),
            (SetParameters, "set_parameters", self._set, setting),
            (SetParametersAtomically, "set_parameters_atomically", self._set_atomically, setting),
        ):
            node.create_service(kind, f"~/{name}", callback, qos_profile=qos_profile_parameters, callback_group=group)

    # As in rclpy, an answer is empty when one of the names is missing.

    def _get(self, request: GetParameters.Request, response: GetParameters.Response) -> GetParameters.Response:
        try:
            response.values = [self._node.get_parameter(name).get_parameter_value() for name in request.names]
        except _MISSING:
            response.values = []
        return response

    def _get_types(
        self, request: GetParameterTypes.Request, response: GetParameterTypes.Response
    ) -> GetParameterTypes.Response:
        try:
            response.types = [int(kind) for kind in self._node.get_parameter_types(request.names)]
        except _MISSING:
            response.types = []
        return response

    def _describe(
        self, request: DescribeParameters.Request, response: DescribeParameters.Response
    ) -> DescribeParameters.Response:
        try:
            response.descriptors = self._node.describe_parameters(request.names)
        except _MISSING:
            response.descriptors = []
        return response

    def _list(self, request: ListParameters.Request, response: ListParameters.Response) -> ListParameters.Response:
        try:
            response.result = self._node.list_parameters(request.prefixes, request.depth)
        except (TypeError, ValueError):
            response.result = ListParametersResult()
        return response

    async def _set(self, request: SetParameters.Request, response: SetParameters.Response) -> SetParameters.Response:
        response.results = [
            await self._set_parameters([Parameter.from_parameter_msg(each)]) for each in request.parameters
        ]
        return response

    async def _set_atomically(
        self, request: SetParametersAtomically.Request, response: SetParametersAtomically.Response
    ) -> SetParametersAtomically.Response:
        response.result = await self._set_parameters(
            [Parameter.from_parameter_msg(each) for each in request.parameters]
        )
        return response
