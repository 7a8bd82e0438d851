"""Every kind of `serving` settings that is allowed, for properties that must hold of all of them."""

from typing import get_args

from hypothesis import strategies as st

from ml_lifecycle.runtimes import RuntimeName
from ml_lifecycle.settings import Serving, Toleration

METRICS = {
    None: ("concurrency", "rps", "cpu", "memory"),
    "Knative": ("concurrency", "rps"),
    "Standard": ("cpu", "memory"),
}
KEYS = st.from_regex(r"([a-z][a-z0-9]{0,8}\.example/)?[A-Za-z0-9]([-_.A-Za-z0-9]{0,8}[A-Za-z0-9])?", fullmatch=True)
VALUES = st.from_regex(r"([A-Za-z0-9]([-_.A-Za-z0-9]{0,8}[A-Za-z0-9])?)?", fullmatch=True)


@st.composite
def tolerations(draw):
    operator = draw(st.sampled_from(["Equal", "Exists"]))
    effect = draw(st.sampled_from([None, "NoSchedule", "PreferNoSchedule", "NoExecute"]))
    return Toleration(
        operator=operator,
        effect=effect,
        key=draw(KEYS if operator == "Equal" else st.none() | KEYS),
        value=None if operator == "Exists" else draw(st.none() | VALUES),
        toleration_seconds=draw(st.none() | st.integers(0, 9999)) if effect == "NoExecute" else None,
    )


@st.composite
def servings(draw):
    def maybe(strategy):
        return draw(st.none() | strategy)

    mode = maybe(st.sampled_from(["Knative", "Standard"]))
    autoscaler = None if mode == "Knative" else maybe(st.sampled_from(["hpa", "keda", "external", "none"]))
    fewest = draw(st.integers(1, 5))
    return Serving(
        runtime=draw(st.sampled_from(get_args(RuntimeName))),
        deployment_mode=mode,
        autoscaler=autoscaler,
        service_account=maybe(st.from_regex(r"[a-z]([-a-z0-9]{0,10}[a-z0-9])?", fullmatch=True)),
        cpu=draw(st.sampled_from(["250m", "0.5", "1"])),
        memory=draw(st.sampled_from(["512Mi", "1Gi", "1000000000"])),
        cpu_limit=maybe(st.sampled_from(["1", "1000m", "1.5"])),
        memory_limit=maybe(st.sampled_from(["2Gi", "2G"])),
        gpus=draw(st.integers(0, 8)),
        min_replicas=fewest,
        max_replicas=fewest + draw(st.integers(0, 5)),
        scale_metric=None if autoscaler == "keda" else maybe(st.sampled_from(METRICS[mode])),
        scale_target=maybe(st.integers(1, 100)),
        container_concurrency=maybe(st.integers(0, 1000)),
        timeout_seconds=maybe(st.integers(1, 86_400)),
        logger_url=maybe(st.sampled_from(["http://broker.logging/models", "https://sink:8443/?a='b'&c=<d>"])),
        logger_mode=draw(st.sampled_from(["all", "request", "response"])),
        tolerations=draw(st.lists(tolerations(), max_size=3)),
        node_selector=draw(st.dictionaries(KEYS, VALUES, max_size=3)),
        restricted=draw(st.booleans()),
    )
