"""Script of two processes, of which one disappears and the other checks its errors (test_peers.py).

python two_processes_peers.py LOST_RANK SCENARIO
"""

import os
import sys

import torch
import torch.distributed as dist

from matched.peers import Peers, is_connection_error
from matched.rendezvous import rendezvous_store


def check_collective(peers):
    try:
        dist.all_reduce(torch.zeros(4))
    except Exception as error:
        assert is_connection_error(error), (
            f"torch {torch.__version__} reports a lost gloo process in other words: "
            f"adapt GLOO_ERROR in matched/peers.py ({type(error).__name__}: {error})"
        )
    else:
        raise AssertionError("the collective cannot succeed")


def check_broadcast(peers):
    try:
        peers.broadcast("never set", None)
    except Exception as error:
        assert is_connection_error(error), f"{type(error).__name__}: {error}"
    else:
        raise AssertionError("the broadcast cannot succeed")


def check_barrier(peers):
    assert not peers.barrier("never complete", 1.0)


CHECKS = {"collective": check_collective, "broadcast": check_broadcast, "barrier": check_barrier}


def main(lost_rank, scenario):
    peers = Peers()
    dist.init_process_group(
        "gloo",
        store=dist.PrefixStore("run", rendezvous_store()),
        rank=peers.rank,
        world_size=peers.world_size,
    )
    dist.barrier()
    if peers.rank == lost_rank:
        rendezvous_store().wait(["other process is ready"])
        os._exit(0)  # like a killed process: the system closes its connections
    rendezvous_store().set("other process is ready", "")
    CHECKS[scenario](peers)
    os._exit(0)  # do not destroy the broken process group, which may wait


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
