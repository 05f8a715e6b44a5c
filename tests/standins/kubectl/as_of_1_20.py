"""Manifests as an API server of 1.20 knows them: from standard input to standard output."""

import sys
from typing import Any

import yaml

# What is the same in 1.20 under another name, and what came later.
VERSIONS = {
    "CronJob": "batch/v1beta1",
    "HorizontalPodAutoscaler": "autoscaling/v2beta2",
    "PodDisruptionBudget": "policy/v1beta1",
}
LATER = "timeZone", "podFailurePolicy", "unhealthyPodEvictionPolicy"


def as_of_1_20(value: Any) -> Any:
    """Return manifests as an API server of 1.20 knows them."""
    if isinstance(value, list):
        return [as_of_1_20(item) for item in value]
    if not isinstance(value, dict):
        return value
    known = {key: as_of_1_20(item) for key, item in value.items() if key not in LATER}
    if value.get("kind") in VERSIONS and "apiVersion" in value:
        known["apiVersion"] = VERSIONS[value["kind"]]
    return known


if __name__ == "__main__":
    documents = list(yaml.load_all(sys.stdin, yaml.CSafeLoader))
    yaml.dump_all(as_of_1_20(documents), sys.stdout, yaml.CSafeDumper, sort_keys=False)
