from hypothesis import given
from hypothesis import strategies as st

from local.kubernetes import ownership
from local.kubernetes.ownership import Owner

SCHEMA = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "properties": {
                "plain": {"type": "array"},
                "names": {"type": "array", "x-kubernetes-list-type": "set"},
                "selector": {"type": "object", "x-kubernetes-map-type": "atomic"},
                "ports": {
                    "type": "array",
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["port", "protocol"],
                    "items": {"type": "object", "properties": {"protocol": {"type": "string", "default": "TCP"}}},
                },
            },
        }
    },
}
A, B = Owner("a", "Apply"), Owner("b", "Apply")

specs = st.fixed_dictionaries(
    {},
    optional={
        "tree": st.dictionaries(st.sampled_from("pqr"), st.integers(0, 3), min_size=1),
        "plain": st.lists(st.integers(0, 3), max_size=3),
        "names": st.lists(st.sampled_from("uvw"), unique=True, max_size=3),
        "selector": st.dictionaries(st.sampled_from("pq"), st.integers(0, 1)),
        "ports": st.lists(
            st.fixed_dictionaries({"port": st.integers(1, 3)}, optional={"name": st.sampled_from("mn")}),
            unique_by=lambda item: item["port"],
            max_size=3,
        ),
    },
)


def apply(live, spec, owners, owner):
    return ownership.apply(live, {"spec": spec} if spec else {}, SCHEMA, owners, owner)


def test_leaves_walk_maps_and_keyed_lists_and_stop_at_atoms():
    spec = {"plain": [1], "selector": {"x": "y"}, "names": ["n"], "ports": [{"port": 80, "name": "http"}], "empty": {}}
    item = 'k:{"port":80,"protocol":"TCP"}'
    assert set(ownership.leaves({"metadata": {"name": "o", "labels": {"l": "v"}}, "spec": spec}, SCHEMA)) == {
        ("f:metadata", "f:labels", "f:l"),
        ("f:spec", "f:plain"),
        ("f:spec", "f:selector"),
        ("f:spec", "f:empty"),
        ("f:spec", "f:names", 'v:"n"'),
        ("f:spec", "f:ports", item),
        ("f:spec", "f:ports", item, "f:port"),
        ("f:spec", "f:ports", item, "f:name"),
    }


@given(spec=specs)
def test_what_one_applies_alone_is_the_object(spec):
    merged, owners = apply({}, spec, {}, A)
    assert merged.get("spec", {}) == spec
    assert apply(merged, spec, owners, A) == (merged, owners)


@given(first=specs, second=specs)
def test_a_later_apply_replaces_the_former_of_the_same_owner(first, second):
    merged, owners = apply({}, first, {}, A)
    merged, owners = apply(merged, second, owners, A)
    wanted = {"spec": second} if second else {}
    leaves = ownership.leaves(merged, SCHEMA)
    # A map that a removal leaves empty goes with it.
    assert {path: value for path, value in leaves.items() if value != {}} == {
        path: value for path, value in ownership.leaves(wanted, SCHEMA).items() if value != {}
    }


@given(mine=specs, theirs=specs)
def test_forced_fields_belong_to_one_owner_and_have_its_value(mine, theirs):
    merged, owners = apply({}, mine, {}, A)
    disputed = ownership.conflicts(merged, {"spec": theirs}, SCHEMA, owners, B)
    merged, owners = apply(merged, theirs, owners, B)
    present = ownership.leaves(merged, SCHEMA)
    for path, value in ownership.leaves({"spec": theirs} if theirs else {}, SCHEMA).items():
        # An empty map or keyed list merges with what is there.
        assert present[path] == value if value not in ({}, []) else True
    for _, path in disputed:
        assert path not in owners.get(A, frozenset())
        assert path in owners[B]
    assert ownership.conflicts(merged, {"spec": theirs}, SCHEMA, owners, B) == []


@given(mine=specs, theirs=specs)
def test_managed_fields_say_it_all(mine, theirs):
    merged, owners = apply({}, mine, {}, A)
    _, owners = apply(merged, theirs, owners, B)
    assert ownership.parse(ownership.render(owners)) == owners


def test_an_update_takes_what_it_writes_and_nobody_owns_what_is_gone():
    merged, owners = apply({}, {"tree": {"p": 1, "q": 1, "r": 1}}, {}, A)
    changed = {"spec": {"tree": {"p": 2, "q": 1}}}
    editor = Owner("editor", "Update")
    owners = ownership.after_update(owners, editor, *ownership.changes(merged, changed, SCHEMA))
    assert owners == {
        A: frozenset({("f:spec", "f:tree", "f:q")}),
        editor: frozenset({("f:spec", "f:tree", "f:p")}),
    }


def test_a_path_reads_as_the_api_writes_it():
    path = ("f:spec", "f:containers", 'k:{"name":"base"}', "f:image")
    assert ownership.readable(path) == '.spec.containers[name="base"].image'
