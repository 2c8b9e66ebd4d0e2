"""Simulated fleets that are small enough to look at."""

import random

from ridgeline.fleet.core.door import Door
from ridgeline.roofline import find_hardware, find_shape
from ridgeline.simulate.fleet import FleetSimulation
from ridgeline.simulate.fleet_load import Traffic
from ridgeline.simulate.fleet_policies import Ours
from ridgeline.simulate.fleet_replica import Machine
from ridgeline.simulate.fleet_run import Place


def machine(slots=16, kv_tokens=100_000):
    return Machine(find_shape("llama-3.1-8b"), find_hardware("h100"), "bfloat16", slots, kv_tokens)


def fleet(count, of=None, region="us", cluster=""):
    return [Place(f"{region}-{cluster}{number}", region, of or machine(), cluster) for number in range(count)]


def traffic(**changed):
    values = {
        "conversations_per_second": 2.0,
        "seconds": 30.0,
        "system_tokens": 256,
        "turns": 3.0,
        "think_seconds": 5.0,
    }
    return Traffic(**values | changed)


def door(region="us", round_trips=None, seed=1, **settings):
    return Ours(Door(region, round_trips or {}, rng=random.Random(seed), **settings))


PROVED_EVERY = 23
"""Events: a proof looks at everything, and an event changes little."""


def prove(simulation):
    """What must hold after any event."""
    if simulation.result.events % PROVED_EVERY:
        return
    for front in simulation.fronts.values():
        if isinstance(front, Ours):
            front.door.check()
    for replica in simulation.there.values():
        replica.check()


def played(places, coming, *, front=None, seed=1, **settings):
    """The simulation, after its run."""
    simulation = FleetSimulation({"us": front or door()}, places, coming, seed, **settings)
    simulation.run()
    return simulation
