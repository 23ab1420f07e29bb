"""The files below deploy/ against the schemas that their readers publish and against each other."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml

from rhoselect import config as configuration
from support import made

PROJECT = Path(__file__).parents[1]
DEPLOY = PROJECT / "deploy"
KUBERNETES = "1.31"  # the oldest release whose schemas we hold the manifests to


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / "k8s" / name).read_text()))


OBJECTS = {
    f"{path.stem}: {each['kind']} {each['metadata']['name']}": each
    for path in sorted((DEPLOY / "k8s").glob("*.yaml"))
    for each in documents(path.name)
}
OWN = {name: each for name, each in OBJECTS.items() if not each["apiVersion"].startswith("ray.io")}
OF_RAY = {name: each for name, each in OBJECTS.items() if name not in OWN}


def cluster_spec(each: Mapping[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = each["spec"]
    return spec.get("rayClusterSpec", spec)


def pod_templates() -> Iterator[dict[str, Any]]:
    for each in OF_RAY.values():
        spec = cluster_spec(each)
        yield spec["headGroupSpec"]["template"]
        yield from (group["template"] for group in spec["workerGroupSpecs"])
    yield from (each["spec"]["template"] for each in OWN.values() if each["kind"] == "Deployment")


@pytest.mark.parametrize("name", ["aws", "gcp", "local"])
def test_ray_accepts_the_cluster_files(name: str) -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    config = yaml.safe_load((DEPLOY / "ray" / f"{name}.yaml").read_text())
    jsonschema.validate(config, schema)
    assert all("#" not in command for key in config if "command" in key for command in config[key])


def test_the_package_of_a_cluster_has_what_its_files_use() -> None:
    made = re.search(r"^cluster-package:.*\n((\t.*\n)+)", (PROJECT / "Makefile").read_text(), re.M)
    assert made
    for path in (DEPLOY / "ray").glob("*.yaml"):
        for used in re.findall(r"~/rhoselect/([\w.-]+)", path.read_text()):
            assert used in made[1], f"{path.name} uses {used}"


def test_a_run_takes_what_is_told_to_append_to_it(tiny_config: Path) -> None:
    more = (DEPLOY / "ray" / "cluster.toml").read_text()
    config = configuration.parse(tomllib.loads(tiny_config.read_text() + more))
    nodes = yaml.safe_load((DEPLOY / "ray" / "aws.yaml").read_text())["available_node_types"]
    assert config.cluster.trainer.keys() <= nodes["trainer"]["resources"].keys()
    assert config.cluster.scorer.keys() <= nodes["scorer"]["resources"].keys()


@pytest.mark.parametrize("name", OWN)
def test_kubernetes_accepts_the_manifests(name: str) -> None:
    kubernetes_validate.validate(OWN[name], KUBERNETES, strict=True)


def test_kubernetes_accepts_the_pods_of_ray() -> None:
    for template in pod_templates():
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}}
        kubernetes_validate.validate({**pod, "template": template}, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", OF_RAY)
def test_kuberay_accepts_its_resources(name: str) -> None:
    """KUBERAY_CRDS is the folder helm-chart/kuberay-operator/crds of a KubeRay release: no package
    index has it."""
    if "KUBERAY_CRDS" not in os.environ:
        pytest.skip("KUBERAY_CRDS does not name a folder of KubeRay's resource definitions")
    each = OF_RAY[name]
    path = Path(os.environ["KUBERAY_CRDS"]) / f"ray.io_{each['kind'].lower()}s.yaml"
    (version,) = (
        version
        for version in yaml.safe_load(path.read_text())["spec"]["versions"]
        if each["apiVersion"] == f"ray.io/{version['name']}"
    )
    jsonschema.validate(each, strict(version["schema"]["openAPIV3Schema"]))


def strict(schema: Any) -> Any:
    """The schema with unknown fields refused, which Kubernetes would drop without a word."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    inner = {key: strict(value) for key, value in schema.items()}
    closed = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
    if closed and schema["properties"] and "x-kubernetes-preserve-unknown-fields" not in schema:
        inner["additionalProperties"] = False
    return inner


def test_job_and_cluster_have_the_same_nodes() -> None:
    job, cluster = (cluster_spec(documents(f"ray{kind}.yaml")[0]) for kind in ("job", "cluster"))
    assert job == cluster


def test_the_manifests_name_what_is_there() -> None:
    templates = list(pod_templates())
    pods = [template["metadata"]["labels"] for template in templates]
    for each in OWN.values():
        selector = {"NetworkPolicy": "podSelector", "Service": "selector"}.get(each["kind"])
        if selector:
            labels = each["spec"][selector].get("matchLabels", each["spec"][selector])
            assert any(labels.items() <= pod.items() for pod in pods), each["metadata"]["name"]
    claims = {each["metadata"]["name"] for each in OWN.values() if "Claim" in each["kind"]}
    for template in templates:
        for volume in template["spec"]["volumes"]:
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            assert claim is None or claim in claims
    secrets = re.findall(r"secretKeyRef': ({.*?})", str(templates))
    assert len(set(secrets)) == 1, "one secret, one key"


def test_a_slurm_job_starts_a_run_and_goes_on_with_it(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a `rhoctl` that writes down its words, which ours then understands."""
    said, stub = tmp_path / "said", tmp_path / "rhoctl"
    stub.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {said}\n')
    stub.chmod(0o755)
    run = tmp_path / "run"
    for name, value in {"RUN": run, "CONFIG": tiny_config, "SLURM_GPUS_ON_NODE": 2}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    job = ["bash", str(DEPLOY / "slurm" / "train.sbatch")]
    subprocess.run(job, check=True)
    words = said.read_text().split()
    made(*words, "--set", "trainer.micro_batches=2", "--dry-run")
    run.mkdir()
    subprocess.run(job, check=True)
    assert said.read_text().split() == ["train", "--resume", *words[2:]]


def test_the_image_holds_every_source_root() -> None:
    """One that is left out would be missed only when the image is built."""
    packages = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    roots = {Path(each).parts[0] for each in packages["targets"]["wheel"]["packages"]}
    copied = re.findall(r"^COPY (\w+) \1$", (DEPLOY / "docker" / "Dockerfile").read_text(), re.M)
    kept = re.findall(r"^!(\w+)$", (PROJECT / ".dockerignore").read_text(), re.M)
    assert roots == set(copied)
    assert roots <= set(kept)
