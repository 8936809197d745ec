"""Checks of what a process does because it runs on AWS."""

from __future__ import annotations

from collections.abc import Iterator

from nativelink.config.problems import Path, Problem, error, warning
from nativelink.config.sections import Sections, walk_specs
from nativelink.config.specs_aws import AwsServicesSpec, Ec2Spec
from nativelink.config.specs_schedulers import GrpcSchedulerSpec

__all__ = ["aws_scheduler_references", "check_aws"]


def aws_scheduler_references(sections: Sections) -> Iterator[tuple[Path, str]]:
    """The place that names a scheduler, if there is one."""
    spec = _spec(sections)
    if spec is not None and sections.global_ is not None and spec.scheduler:
        yield (*sections.global_.path, "aws", "scheduler"), spec.scheduler


def check_aws(sections: Sections) -> Iterator[Problem]:
    """Findings about the scheduler, the pools and the machine."""
    spec, part = _spec(sections), sections.global_
    if spec is None or part is None:
        return
    path = (*part.path, "aws")
    publishes = spec.cloudwatch is not None and spec.cloudwatch.enabled
    reads = spec.drain_queue is not None and bool(spec.drain_queue.url)
    if (publishes or reads) and not spec.scheduler:
        key = "cloudwatch" if publishes else "drain_queue"
        yield error((*path, key), 'needs "scheduler": whose workers it is about', at_key=True)
    if publishes and not spec.pools:
        yield warning(
            (*path, "cloudwatch"), "there are no pools to publish metrics of", at_key=True
        )
    entry = next((each for each in sections.schedulers if each.name == spec.scheduler), None)
    if entry is not None and entry.spec is not None:
        for _, inner in walk_specs(entry.spec, entry.kind_path):
            if isinstance(inner, GrpcSchedulerSpec):
                yield error(
                    (*path, "scheduler"),
                    f'no worker joins "{spec.scheduler}" here: it passes actions on',
                )
    if spec.ec2 is not None and spec.ec2.enabled:
        yield from _ec2((*path, "ec2"), spec.ec2, len(sections.workers))


def _ec2(path: Path, spec: Ec2Spec, workers: int) -> Iterator[Problem]:
    for key in ("instance_id", "auto_scaling_group"):
        if not getattr(spec, key):
            yield error((*path, key), "nothing can be done for a machine without it", got='""')
    if workers > 1:
        yield error(path, f"looks after one worker, and there are {workers}", at_key=True)


def _spec(sections: Sections) -> AwsServicesSpec | None:
    return None if sections.global_ is None else sections.global_.spec.aws
