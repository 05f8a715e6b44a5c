"""kubectl against an API server of 1.20 without nodes: kubectl.py KUBECTL ARGUMENT...

Manifests are brought to what that version knows. `exec` has no kubelet to ask: the command runs
under the prefix in POD, such as `docker exec NAME`.
"""

import os
import shlex
import sys
import tempfile
from pathlib import Path

import yaml

# What is the same under another name in 1.20, and what came later.
VERSIONS = {
    "PodDisruptionBudget": "policy/v1beta1",
    "CronJob": "batch/v1beta1",
    "HorizontalPodAutoscaler": "autoscaling/v2beta2",
}
LATER = [
    ("CronJob", ["spec", "timeZone"]),
    ("CronJob", ["spec", "jobTemplate", "spec", "podFailurePolicy"]),
    ("PodDisruptionBudget", ["spec", "unhealthyPodEvictionPolicy"]),
]


def as_of_1_20(text: str) -> str:
    documents = [document for document in yaml.safe_load_all(text) if document]
    for document in documents:
        kind = document["kind"]
        document["apiVersion"] = VERSIONS.get(kind, document["apiVersion"])
        for _, path in (later for later in LATER if later[0] == kind):
            parent = document
            for key in path[:-1]:
                parent = parent.get(key, {})
            parent.pop(path[-1], None)
    return yaml.safe_dump_all(documents)


def main(kubectl: str, *arguments: str) -> None:
    args = list(arguments)
    if "exec" in args and "--" in args:
        prefix = shlex.split(os.environ["POD"])
        os.execvp(prefix[0], [*prefix, *args[args.index("--") + 1 :]])
    for place, flag in enumerate(args[:-1]):
        if flag == "-f" and args[place + 1] != "-":
            file, name = tempfile.mkstemp(suffix=".yaml", dir=os.environ.get("MANIFESTS"))
            os.close(file)
            Path(name).write_text(as_of_1_20(Path(args[place + 1]).read_text("utf-8")), "utf-8")
            args[place + 1] = name
    os.execv(kubectl, [kubectl, *args])


if __name__ == "__main__":
    main(*sys.argv[1:])
