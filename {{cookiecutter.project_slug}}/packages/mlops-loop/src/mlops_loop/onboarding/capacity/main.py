"""The verb `capacity`: print the plan for a load, as text or JSON."""

from mlops_loop.onboarding.capacity.plan import Load, Plan, plan, shipped


def capacity(load: Load, measured: bool, as_json: bool) -> None:
    """Print what a load needs, by the unit costs of this machine or the shipped ones."""
    if measured:
        from mlops_loop.onboarding.capacity.measure import measure
    made = plan(load, measure() if measured else shipped())
    print(made.model_dump_json(indent=2) if as_json else "\n".join(lines(made)))


def lines(made: Plan) -> list[str]:
    found = list[tuple[str, str]]()
    if one := made.serving:
        found += [
            ("CPU of a request", f"{one.cpu_ms:.2f} ms"),
            ("replicas", f"{one.replicas:,}, {one.utilisation:.0%} busy"),
            ("memory of them", f"{one.memory_gib:,.1f} GiB"),
            ("p95 of an answer", f"{one.p95_ms:.1f} to {one.random_p95_ms:.1f} ms"),
            ("log", f"{made.log.rows_per_day:,.0f} rows, {made.log.gib_per_day:,.1f} GiB a day"),
            ("log kept", f"{made.log.gib:,.0f} GiB"),
        ]
    if batch := made.batch:
        found += [
            ("CPU of `score`", f"{batch.cpu_hours:,.1f} hours a day"),
            ("cores for it", f"{batch.cores:,}, {batch.hours:.1f} hours a day"),
            ("memory for it", f"{batch.memory_gib:,.1f} GiB"),
        ]
    cost = made.cost_per_month
    parts = f"cores {cost.cores:,.0f}, memory {cost.memory:,.0f}, log {cost.log:,.0f}"
    found += [
        ("cores", f"{made.cores:,}"),
        ("memory", f"{made.memory_gib:,.1f} GiB"),
        ("cost a month", f"{cost.total:,.0f} ({parts})"),
    ]
    text = [f"{name:18} {value}" for name, value in found]
    return [*text, "", "Assumed:", *(f"- {line}" for line in made.assumptions)]
