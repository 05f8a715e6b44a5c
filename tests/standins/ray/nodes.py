"""A Ray cluster on loopback, until its input ends: a head without CPUs, and COUNT nodes of one.

It prints the address. `kill` ends a node with all its processes, `other WORD VERSION` makes the
cluster say that it is of another version of "ray" or "python". Each is answered by a line.
"""

import json
import sys

from ray._private import ray_constants
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster


def main(count: int) -> None:
    memory = {"object_store_memory": 200 * 2**20}
    head = {"num_cpus": 0, "include_dashboard": False, **memory}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.add_node(num_cpus=1, **memory) for _ in range(count)]
    print(cluster.address, flush=True)
    for line in sys.stdin:
        match line.split():
            case ["kill"]:
                cluster.remove_node(nodes.pop(), allow_graceful=False)
            case ["add"]:
                nodes.append(cluster.add_node(num_cpus=1, **memory))
            case ["other", word, version]:
                store = GcsClient(address=cluster.address)
                key, space = b"CLUSTER_METADATA", ray_constants.KV_NAMESPACE_CLUSTER
                known = json.loads(store.internal_kv_get(key, space))
                known[f"{word}_version"] = version
                store.internal_kv_put(key, json.dumps(known).encode(), True, space)
        print("done", flush=True)
    cluster.shutdown()


main(int(sys.argv[1]))
