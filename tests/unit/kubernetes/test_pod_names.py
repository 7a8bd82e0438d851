"""Names of pods as Kubernetes and Knative make them, and what is found of them."""

import re

import pytest

from local.kubernetes.controllers.deployment import pod_name, safe_hash
from ml_lifecycle.kserve.data_planes import filled
from ml_lifecycle.kubernetes.pod_names import pods_of, predictor_deployment, revision_deployment

SAFE = re.compile("[bcdfghjklmnpqrstvwxz2456789]+")


def fits(deployments, pod):
    return bool(re.fullmatch(pods_of(deployments), pod))


@pytest.mark.parametrize("digest", ["6b8f9c7d5", "7fd7456655"])
@pytest.mark.parametrize("length", range(1, 64))
def test_the_pods_of_a_deployment_of_any_length_are_found(length, digest):
    deployment = ("abc-" * 16)[: length - 1] + "d"
    pod = pod_name(deployment, digest)
    assert len(pod) <= 63
    assert fits([deployment], pod)
    assert fits(["another", deployment], pod)
    assert not fits([deployment], f"x{pod}"[:63])
    assert not fits([deployment + "e"], pod) or length > 57


# Seen on Kubernetes 1.34 with Knative 1.23 and KServe 0.20; the hyphen goes, then the hash, then the Deployment's name.
@pytest.mark.parametrize(
    ("name", "tail"),
    [
        (18, "-deployment-5697c8dcc8-kqzh2"),
        (20, "-deployment-7fd7456655snfsk"),
        (24, "-deployment-5469455r89l"),
        (30, "-deployment-zvcxc"),
        (36, "-deplomj9qk"),
    ],
)
def test_pods_of_a_revision_are_found_as_a_real_cluster_names_them(name, tail):
    revision = f"{'customer-churn-scoring-of-the-whole-group'[:name]}-predictor-00001"
    other = revision.replace("-00001", "-00002")
    assert fits([revision_deployment(revision)], revision + tail)
    assert not fits([revision_deployment(other)], revision + tail)


def test_a_revision_whose_deployment_knative_names_by_a_digest_is_found():
    revision = f"{'a' * 42}-predictor-00001"
    deployment = revision_deployment(revision)
    assert re.fullmatch(r"a{20}[0-9a-f]{32}-deployment", deployment)
    assert len(deployment) == 63
    assert fits([deployment], f"{deployment[:58]}j98wz")
    assert not fits([revision_deployment(revision[:-1] + "2")], f"{deployment[:58]}j98wz")


@pytest.mark.parametrize(("name", "tail"), [(30, "-7d5fc954b4-zmvcf"), (36, "-7d5fc954b4-zmvcf"), (42, "-7fbbdgrbhc")])
def test_pods_of_a_predictor_in_standard_mode_are_found(name, tail):
    predictor = f"{'a' * name}-predictor"
    assert predictor_deployment(predictor) == predictor
    assert fits([predictor], predictor + tail)


@pytest.mark.parametrize(
    "stranger",
    ["digits-v2-predictor-6b8f9c7d5-x2kvq", "digits-predictor-canary-x2kvq", "digits-predictor-6b8f9c7d5-x2kvq-debug"],
)
def test_pods_of_another_whose_name_begins_alike_are_not(stranger):
    assert not fits(["digits-predictor"], stranger)


def test_a_placeholder_for_digits_fits_every_revision():
    pods = pods_of(["digits-predictor-#####-deployment"])
    assert re.fullmatch(pods, "digits-predictor-00017-deployment-6b8f9c7d5-x2kvq")
    assert not re.fullmatch(pods, "digits-predictor-large-deployment-6b8f9c7d5-x2kvq")


def test_a_dot_in_a_name_is_only_a_dot():
    assert fits(["digits.2"], "digits.2-6b8f9c7d5-x2kvq")
    assert not fits(["digits.2"], "digitsx2-6b8f9c7d5-x2kvq")


def test_the_stand_in_writes_hashes_as_kubernetes_does():
    assert safe_hash("f" * 16) == "86f8fbc6f9"  # 4294967295
    assert SAFE.fullmatch(safe_hash("0123456789abcdef"))


@pytest.mark.parametrize("side", ["customer-churn-scoring-predictor-00001", f"{'a' * 40}-predictor-00012"])
def test_queries_of_ones_own_are_given_these_pods(side):
    pods = filled("$pods", side=side, service="s", namespace="n", window_seconds=5)
    assert re.fullmatch(pods, pod_name(revision_deployment(side), "6b8f9c7d5"))
