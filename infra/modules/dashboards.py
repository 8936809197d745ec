"""What people look at: a dashboard, and saved queries of the logs."""

from __future__ import annotations

import json
from typing import Final

from constructs import Construct

from infra import dashboard
from infra._cdk import CloudwatchDashboard, CloudwatchQueryDefinition, Lb
from infra.kit import Kit
from infra.modules.logs import Logs
from infra.modules.redis import Redis
from infra.modules.roles import namespace_of

__all__ = ["Dashboards"]


class Dashboards(Construct):
    """The region at a glance, and what to ask its logs first."""

    def __init__(
        self, scope: Construct, id_: str, *, kit: Kit, edge: Lb, redis: Redis, logs: Logs
    ) -> None:
        """Makes them.

        Args:
            edge: the clients' balancer.
        """
        super().__init__(scope, id_)
        CloudwatchDashboard(
            self,
            "dashboard",
            dashboard_name=dashboard.name_of(kit),
            dashboard_body=json.dumps(
                dashboard.body(
                    kit,
                    namespace=namespace_of(kit),
                    edge=edge.arn_suffix,
                    redis=redis.replication_group_id,
                )
            ),
        )
        if not kit.makes("aws_cloudwatch_query_definition"):
            return
        for name, query in _QUERIES.items():
            CloudwatchQueryDefinition(
                self,
                name,
                name=f"{kit.name()}/{name}",
                log_group_names=[logs.groups[role].name for role in ("cas", "scheduler", "worker")],
                query_string=query,
            )


_QUERIES: Final = {
    "errors": "fields @timestamp, @log, target, fields.message\n"
    '| filter level in ["ERROR", "WARN"]\n| sort @timestamp desc\n| limit 200',
    "errors-by-kind": "fields target, fields.message\n"
    '| filter level = "ERROR"\n| stats count(*) as errors by target, fields.message\n'
    "| sort errors desc",
}
