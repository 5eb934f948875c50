"""The task in which a person decides about a challenger, in Airflow's own UI, under *Required Actions*."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Param

from nightshift.usecase import UseCase, load_usecase

_NOBODY = "nobody (timed out)"


def comment_param() -> dict[str, Param]:
    """Return the field of the form in which a person says why."""
    return {"comment": Param("", type="string", title="Comment", description="Kept in the deployment log.")}


class ApproveChallenger(ApprovalOperator):
    """Asks whether what passed the gate becomes champion, and records the answer in the deployment log.

    It asks nobody when the use case's policy is automatic and the run's ``approval`` parameter is empty, nor
    about what is no challenger any more, and not again when the challenger was decided about before: a
    rejected one stays so in every rerun.
    """

    template_fields = (*ApprovalOperator.template_fields, "decision")

    def __init__(self, *, usecase: UseCase, decision: Any, **more: Any) -> None:
        policy = usecase.gate.approval
        super().__init__(
            subject=f"{usecase.title}: make this challenger champion?",
            defaults=[self.REJECT],
            response_timeout=timedelta(hours=policy.timeout_hours),
            assigned_users=[{"id": name, "name": name} for name in policy.approvers],
            **more,
        )
        self.usecase = usecase.name
        self.decision = decision

    def execute(self, context: Any) -> Any:
        """Ask, unless nobody has to be asked or somebody has answered before."""
        from nightshift import stages

        uc = load_usecase(self.usecase)
        decided = stages.approval_of(uc, self.decision)
        if decided is not None:
            self.log.info("%s by %s before: %s", decided["decision"], decided["by"], decided["comment"])
            return super().execute_complete(context, self._event(decided))
        if "manual" not in (context["params"].get("approval"), uc.gate.approval.policy):
            self.log.info("nobody is asked: approval is automatic")
            return None
        if not stages.open_question(uc, self.decision):
            self.log.info("nobody is asked: it is champion already, or another version was promoted since")
            return None
        self.subject, self.body = stages.ask(uc, self.decision)
        return super().execute(context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        """Record the answer; skip the promotion when it is no."""
        from nightshift import stages

        if "error" not in event:
            user = event["responded_by_user"]
            stages.decide(
                load_usecase(self.usecase),
                self.decision,
                {
                    "decision": "approved" if event["chosen_options"] == [self.APPROVE] else "rejected",
                    "by": user["name"] if user else _NOBODY,
                    "at": event["responded_at"] or datetime.now(UTC),
                    "comment": (event["params_input"] or {}).get("comment") or "",
                },
            )
        return super().execute_complete(context, event)

    def _event(self, decided: dict[str, Any]) -> dict[str, Any]:
        return {
            "chosen_options": [self.APPROVE if decided["decision"] == "approved" else self.REJECT],
            "params_input": {"comment": decided["comment"]},
            "responded_at": datetime.fromisoformat(decided["at"]),
            "responded_by_user": {"id": decided["by"], "name": decided["by"]},
        }
