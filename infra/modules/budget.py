"""A mail before the bill is a surprise."""

from __future__ import annotations

from constructs import Construct

from infra._cdk import (
    BudgetsBudget,
    BudgetsBudgetCostFilter,
    BudgetsBudgetNotification,
)
from infra.kit import Kit

__all__ = ["Budget"]


class Budget(Construct):
    """A monthly budget of what carries the region's tag."""

    def __init__(self, scope: Construct, id_: str, *, kit: Kit) -> None:
        super().__init__(scope, id_)
        if not kit.makes("aws_budgets_budget"):
            return
        BudgetsBudget(
            self,
            "budget",
            # Budgets are the account's: a region of the same name may be elsewhere.
            name=kit.name(kit.region),
            budget_type="COST",
            limit_amount=str(kit.settings.budget.monthly_usd),
            limit_unit="USD",
            time_unit="MONTHLY",
            cost_filter=[
                BudgetsBudgetCostFilter(
                    name="TagKeyValue", values=[f"user:NativeLinkRegion${kit.settings.name}"]
                ),
                BudgetsBudgetCostFilter(name="Region", values=[kit.region]),
            ],
            notification=[
                BudgetsBudgetNotification(
                    comparison_operator="GREATER_THAN",
                    notification_type=kind,
                    threshold=threshold,
                    threshold_type="PERCENTAGE",
                    subscriber_email_addresses=[kit.settings.contact],
                )
                for kind, threshold in (("ACTUAL", 80), ("ACTUAL", 100), ("FORECASTED", 100))
            ],
        )
