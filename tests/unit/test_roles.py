"""The roles of k8s_templates/: least rights, written as data, and enough for a pass of the scaler."""

from datetime import UTC, datetime

import pytest
import yaml
from jinja2 import StrictUndefined, Template

from local.kubernetes.rights import Asked, Rights, asked
from local.kubernetes.stand_in import KubernetesStandIn
from ml_lifecycle.kubernetes.client import KubernetesClient
from ml_lifecycle.kubernetes.exceptions import ForbiddenError
from ml_lifecycle.kubernetes.resource import CONFIG_MAP, POD, SECRET
from ml_lifecycle.resources import resource

TEMPLATES = ("rollout_role", "scaler_role", "scaler_cluster_role")
VALUES = {"namespace": "models", "service_account": "airflow", "service_account_namespace": "airflow"}


def render(template, /, **values):
    text = resource(f"k8s_templates/{template}.yaml").read_text()
    return list(yaml.safe_load_all(Template(text, undefined=StrictUndefined).render(**VALUES | values)))


@pytest.mark.parametrize("name", TEMPLATES)
def test_no_role_has_a_wildcard_secrets_or_rights_over_rights(name):
    role, binding = render(name)
    assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) == (role["kind"], role["metadata"]["name"])
    for rule in role["rules"]:
        assert "*" not in rule["resources"] + rule["verbs"] + rule["apiGroups"]
        assert "rbac.authorization.k8s.io" not in rule["apiGroups"]
        assert not {"secrets", "serviceaccounts", "serviceaccounts/token", "pods/exec"} & set(rule["resources"])
        assert not {"escalate", "bind", "impersonate", "deletecollection"} & set(rule["verbs"])


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_value_is_one_value_whatever_it_holds(name):
    odd = 'x"\n  - kind: User\n    name: evil'
    _, binding = render(name, service_account=odd)
    assert [subject["name"] for subject in binding["subjects"]] == [odd]


def test_the_scaler_s_two_roles_say_the_same():
    assert render("scaler_role")[0]["rules"] == render("scaler_cluster_role")[0]["rules"]


def test_a_role_ends_at_its_namespace():
    rights = Rights(render("rollout_role"))
    assert rights.allow(Asked("delete", "serving.kserve.io", "inferenceservices", "models"))
    for namespace in ("kube-system", ""):
        assert not rights.allow(Asked("delete", "serving.kserve.io", "inferenceservices", namespace))
    assert "'kube-system'" in rights.refused[0]


@pytest.mark.parametrize(
    ("method", "where", "watch", "verb", "what"),
    [
        ("GET", {"plural": "pods", "name": None, "namespace": "m"}, False, "list", "pods"),
        ("GET", {"plural": "pods", "name": None, "namespace": "m"}, True, "watch", "pods"),
        ("GET", {"plural": "pods", "name": "p", "namespace": "m", "subresource": "log"}, False, "get", "pods/log"),
        ("DELETE", {"plural": "pods", "name": None, "namespace": "m"}, False, "deletecollection", "pods"),
        ("PATCH", {"plural": "namespaces", "name": "m"}, False, "patch", "namespaces"),
    ],
)
def test_requests_have_the_verbs_of_rbac(method, where, watch, verb, what):
    assert asked(method, where, watch=watch) == Asked(verb, "", what, "m")


async def test_the_account_of_the_stand_in_may_do_what_its_roles_say(tmp_path):
    rights = Rights(render("rollout_role"))
    with KubernetesStandIn(tmp_path, rights=rights) as stand_in:
        async with KubernetesClient.from_kubeconfig(stand_in.account) as client:
            assert await client.list(POD, "models") == []
            with pytest.raises(ForbiddenError, match="cannot list resource 'secrets'"):
                await client.list(SECRET, "models")
        async with KubernetesClient.from_kubeconfig(stand_in.kubeconfig) as client:
            await client.list(SECRET, "models")
            await client.list(CONFIG_MAP, "models")
    assert len(rights.refused) == 1


async def test_a_pass_of_the_scaler_sends_what_its_role_allows(tmp_path):
    from ml_lifecycle.prometheus.client import PrometheusClient
    from ml_lifecycle.scaling.reconciler import PassOptions, reconcile

    rights = Rights(render("scaler_cluster_role"))
    with KubernetesStandIn(tmp_path, rights=rights) as stand_in:
        template = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
        deployment = {"replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": template}
        metadata = {"name": "web", "namespace": "models"}
        stand_in.store.create({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": deployment})
        target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
        spec = {"targetRef": target, "maxReplicas": 5, "minReplicas": 2, "metric": {"query": "vector(1)"}}
        scaler = {"apiVersion": "ml-lifecycle.io/v1alpha1", "kind": "MLScaler", "metadata": metadata}
        stand_in.store.create({**scaler, "spec": spec | {"capacityPerReplica": 1}})
        async with (
            KubernetesClient.from_kubeconfig(stand_in.account) as kubernetes,
            PrometheusClient("http://127.0.0.1:9") as prometheus,
        ):
            await reconcile(kubernetes, prometheus, datetime.now(UTC), PassOptions())
    assert not rights.refused, (
        f"scale_replicas sent what scaler_role.yaml does not allow: {sorted(set(rights.refused))}; add the rule there "
        "and to scaler_cluster_role.yaml, or do not send it"
    )


@pytest.mark.parametrize("template", [*TEMPLATES, "mlscaler", "knative_pod_monitor"])
def test_a_newline_in_a_value_adds_nothing_to_what_people_apply(template):
    odd = "models\n  - kind: User\n    name: stranger"

    def shape(value):
        # Whatever a template wants to be told is told the same.
        return [keys(each) for each in render(template, name=value, **dict.fromkeys(VALUES, value))]

    assert shape(odd) == shape("models")


def keys(node):
    """The document without its values."""
    if isinstance(node, dict):
        return {key: keys(each) for key, each in node.items()}
    return [keys(each) for each in node] if isinstance(node, list) else type(node).__name__
