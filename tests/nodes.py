"""A Ray cluster of several nodes on this machine, in a process of its own: Ray allows one in each.

Arguments: what each node has, as JSON for ``Cluster.add_node``, the head first. Prints the address.
For each number on standard input it kills that node and, once the cluster knows, prints the number.
Ends with its input.
"""

import json
import sys

from ray.cluster_utils import Cluster

if __name__ == "__main__":
    cluster = Cluster()
    nodes = [cluster.add_node(**json.loads(each)) for each in sys.argv[1:]]
    print(cluster.address, flush=True)
    for line in sys.stdin:
        cluster.remove_node(nodes[int(line)], allow_graceful=False)
        cluster.wait_for_nodes()
        print(line, end="", flush=True)
    cluster.shutdown()
