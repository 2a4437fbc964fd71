"""What a history is made of, drawn from its seed before anything happens: the fleet, the tasks, and the faults.

draw(seed) ─► Plan                the same seed, the same plan; whatever else is random is drawn by the universe
draw(seed, small=True) ─► Plan    one of few tasks and little time: three are made in the time of one
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .network import Weather

FAULTS: Mapping[str, int] = {  # how often each is drawn
    "kill worker": 6,
    "freeze worker": 6,
    "cut off worker": 5,
    "drain worker": 4,
    "kill child": 4,
    "freeze child": 1,
    "kill fork server": 2,
    "freeze server": 4,
    "restart server": 3,
    "kill clients": 3,
    "flush scripts": 2,
    "clock step": 3,
    "quiet worker": 1,
    "kill producer": 1,
}

# Drawn apart, so that the histories without them stay those that they were.
SELDOM = ("full server", "refusing server", "suspend worker")

ENDLESS_S = 30.0  # a task of that length is there to be stopped


@dataclass(frozen=True)
class Job:
    """One task: when it is submitted, its options, and what its code does."""

    local: str
    at: float  # seconds from the beginning
    lasts_s: float
    raises: int = 0  # it raises so often before it returns
    dies: int = 0  # and kills its child so often before that
    deaf: bool = False  # to every flag
    pool: str = "default"
    priority: str = "normal"
    retries: int = 0
    timeout_s: float | None = None
    grace_s: float = 0.5
    delay_s: float = 0.0
    deadline_s: float = 0.0
    once: bool = False
    verb: str = ""  # "cancel" or "stop", `after_s` after it was submitted
    after_s: float = 0.0

    @property
    def kind(self) -> str:
        """A word for people."""
        words = [
            word for word in ("raises", "dies", "deaf", "once", "verb", "deadline_s", "delay_s") if getattr(self, word)
        ]
        return "+".join(words) or "plain"


@dataclass(frozen=True)
class Blow:
    """One fault: when, what, how long, and a number that says to whom."""

    at: float
    kind: str
    lasts_s: float
    whom: float

    def __str__(self) -> str:
        return f"{self.kind} at {self.at:.2f} for {self.lasts_s:.2f} s"


@dataclass(frozen=True)
class Plan:
    """All of it."""

    seed: int
    lease_s: float
    workers: int
    hosts: int
    slots: Mapping[str, int]
    window: str
    producers: int
    weather: Weather
    jobs: tuple[Job, ...] = ()
    blows: tuple[Blow, ...] = field(default=())
    small: bool = False

    def lines(self) -> list[str]:
        """It as people read it."""
        slots = ",".join(f"{kind}={count}" for kind, count in self.slots.items())
        told = [
            (
                f"seed {self.seed}: {self.workers} workers ({slots}, window {self.window}) on {self.hosts} hosts,"
                f" {self.producers} producers, lease {self.lease_s} s"
            ),
            f"weather: {self.weather}",
        ]
        told += [f"task {job.local}: {job}" for job in self.jobs]
        return told + [f"fault {n}: {blow}" for n, blow in enumerate(self.blows)]


def draw(seed: int, *, small: bool = False) -> Plan:
    """Draw a plan."""
    plan = _small(random.Random(seed * 7919 + 17), seed) if small else _large(random.Random(seed * 7919 + 17), seed)
    dice = random.Random(seed * 7919 + 18)
    if dice.random() >= 0.15:
        return plan
    more = replace(_blow(dice, max(job.at for job in plan.jobs), plan.lease_s), kind=dice.choice(SELDOM))
    return replace(plan, blows=tuple(sorted([*plan.blows, more], key=lambda blow: blow.at)))


def _large(dice: random.Random, seed: int) -> Plan:
    lease_s = dice.choice((1.5, 2.0, 3.0))
    slots = dice.choice(({"process": 1}, {"process": 2}, {"process": 2}, {"thread": 3}, {"process": 1, "thread": 2}))
    span_s = dice.choice((0.1, 0.3, 1.0, 4.0))  # at once, or little by little
    pools = ["default", *list(slots)]
    jobs = tuple(_job(dice, n, span_s, pools, lease_s) for n in range(dice.randint(3, 12)))
    blows = (
        [] if dice.random() < 0.1 else [_blow(dice, span_s, lease_s) for _ in range(dice.choice((1, 1, 2, 2, 3, 4)))]
    )
    return Plan(
        seed, lease_s, dice.choice((1, 2, 2, 2, 3)), dice.choice((1, 9)), slots,
        dice.choice(("auto", "auto", "1", "4")),
        dice.choice((1, 1, 2)), _weather(dice), jobs, tuple(sorted(blows, key=lambda blow: blow.at)),
    )  # fmt: skip


def _small(dice: random.Random, seed: int) -> Plan:
    """Few tasks, few faults, short leases: some flaws show in these sooner than in large ones, others later."""
    lease_s = dice.choice((1.0, 1.5, 1.5, 6.0))
    slots = dice.choice(({"process": 1}, {"process": 2}, {"thread": 2}))
    span_s = dice.choice((0.1, 0.3, 1.0))
    jobs = [_job(dice, n, span_s, ["default"], lease_s) for n in range(dice.choice((1, 1, 2, 2, 3, 4)))]
    jobs = [job if job.lasts_s >= ENDLESS_S else replace(job, lasts_s=min(job.lasts_s, 2.5 * lease_s)) for job in jobs]
    blows = [_blow(dice, span_s, lease_s) for _ in range(dice.choice((1, 1, 1, 2)))]
    return Plan(
        seed, lease_s, dice.choice((1, 2, 2)), dice.choice((1, 9)), slots, dice.choice(("auto", "auto", "1", "4")),
        1, replace(_weather(dice), slow_s=0.1 * lease_s), tuple(jobs), tuple(sorted(blows, key=lambda blow: blow.at)),
        small=True,
    )  # fmt: skip


def _job(dice: random.Random, n: int, span_s: float, pools: list[str], lease_s: float) -> Job:
    options: dict[str, Any] = {
        "lasts_s": dice.choice(
            (0.0, 0.001, 0.01, 0.1, dice.uniform(0, 1), dice.uniform(0, 1.5 * lease_s), dice.uniform(1, 4) * lease_s)
        ),
        "pool": dice.choice(pools),
        "priority": dice.choice(("normal", "normal", "high", "low")),
        "grace_s": dice.choice((0.0, 0.2, 1.0)),
        "deaf": dice.random() < 0.3,
    }
    match dice.choice(
        ("plain",) * 5 + ("flaky", "failing", "dies", "dies", "slow", "delayed", "deadline", "once", "stop", "stop")
    ):
        case "flaky":
            options |= {"raises": dice.randint(1, 3), "retries": 3}
        case "failing":
            options |= {"raises": 99, "retries": dice.randint(0, 1)}
        case "dies":
            options |= {"dies": dice.choice((1, 1, 2, 99))}
        case "slow":
            options |= {"lasts_s": 60.0, "timeout_s": dice.uniform(0.1, 1.0), "retries": dice.randint(0, 1)}
        case "delayed":
            options |= {"delay_s": dice.uniform(0, 2)}
        case "deadline":
            options |= {"deadline_s": dice.uniform(0.05, 4)}
        case "once":
            options |= {"once": True}
        case "stop":
            verb = dice.choice(("stop", "stop", "cancel"))
            lasts_s = dice.choice((options["lasts_s"], ENDLESS_S)) if verb == "stop" else options["lasts_s"]
            options |= {"verb": verb, "after_s": dice.choice((0.0, 0.01, dice.uniform(0, 3))), "lasts_s": lasts_s}
    return Job(f"t{n}", dice.uniform(0, span_s), **options)


def _blow(dice: random.Random, span_s: float, lease_s: float) -> Blow:
    (kind,) = dice.choices(list(FAULTS), weights=list(FAULTS.values()))
    lasts_s = dice.choice((0.05, 0.4 * lease_s, 0.7 * lease_s, 1.2 * lease_s, 2.5 * lease_s)) * dice.uniform(0.7, 1.3)
    at = dice.uniform(0.05, dice.choice((0.5, span_s + lease_s, span_s + 2 * lease_s)))
    return Blow(at, kind, lasts_s, dice.random())


def _weather(dice: random.Random) -> Weather:
    fair, often = 0.0, dice.choice((0.01, 0.05))
    match dice.choice(("fair", "fair", "slow", "cuts", "twice", "foul")):
        case "slow":
            return Weather(dice.choice((0.001, 0.02)), slow=0.1)
        case "cuts":
            return Weather(cut_before=often, cut_after=often)
        case "twice":
            return Weather(twice=2 * often)
        case "foul":
            return Weather(slow=often, cut_before=often / 2, cut_after=often / 2, twice=often)
    return Weather(slow=fair)
