"""An all-reduce between the nodes of a cluster, as training does it: one process of this program a rank.

``python -m rayconvai.commands.collective RANK WORLD ADDRESS PORT GPU`` prints the bandwidth, as JSON. GPU is the number
of one, for NCCL, or empty, for gloo.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import timedelta

import torch
import torch.distributed as dist

SECONDS = 45.0
"""How long ranks wait for one another."""
_BYTES = {"gloo": 8 * 2**20, "nccl": 256 * 2**20}
_REPEATS = 5


def reduce(rank: int, world: int, address: str, port: int, gpu: str) -> float:
    """Add tensors up over all ranks, and return the bus bandwidth in bytes a second.

    That is what each rank's link carries in a ring, 2 (n - 1) / n times the tensor's bytes, over the time.

    Raises:
        RuntimeError: the ranks did not come together, or the sum is wrong.
    """
    device, backend = (torch.device("cuda", int(gpu)), "nccl") if gpu else (torch.device("cpu"), "gloo")
    dist.init_process_group(
        backend,
        init_method=f"tcp://{address}:{port}",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=SECONDS),
    )
    tensor = torch.ones(_BYTES[backend] // 4, device=device)
    dist.all_reduce(tensor)  # builds the connections
    if tensor[0].item() != world or tensor[-1].item() != world:
        raise RuntimeError(f"the sum over {world} ranks is {tensor[0].item():g}")
    began = time.perf_counter()
    for _ in range(_REPEATS):
        dist.all_reduce(tensor)
    tensor[0].item()  # waits for the device
    took = (time.perf_counter() - began) / _REPEATS
    dist.destroy_process_group()
    return 2 * (world - 1) / world * _BYTES[backend] / took


if __name__ == "__main__":
    _, _rank, _world, _address, _port, _gpu = sys.argv
    print(json.dumps(reduce(int(_rank), int(_world), _address, int(_port), _gpu)))
