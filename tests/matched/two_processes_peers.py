"""Two processes of a job, one of which is killed; test_peers.py starts both.

python two_processes_peers.py RANK_TO_KILL SCENARIO
"""

import os
import signal
import sys

import torch
import torch.distributed as dist

from matched.peers import Peers, is_connection_error
from matched.rendezvous import rendezvous_store

RANK_TO_KILL, SCENARIO = int(sys.argv[1]), sys.argv[2]


def collective(peers):
    dist.all_reduce(torch.zeros(4))


def broadcast(peers):
    peers.broadcast("never set", None)


def barrier(peers):
    print("barrier reached:", peers.barrier("never complete", 1.0))


if __name__ == "__main__":
    peers = Peers()
    dist.init_process_group(
        "gloo",
        store=dist.PrefixStore("run", rendezvous_store()),
        rank=peers.rank,
        world_size=peers.world_size,
    )
    dist.barrier()
    if peers.rank == RANK_TO_KILL:
        rendezvous_store().wait(["other process is ready"])
        os.kill(os.getpid(), signal.SIGKILL)
    rendezvous_store().set("other process is ready", "")
    try:
        globals()[SCENARIO](peers)
    except Exception as error:
        print(type(error).__name__, "connection error:", is_connection_error(error), error)
    sys.stdout.flush()
    os._exit(0)  # the destructor of a broken process group may wait
