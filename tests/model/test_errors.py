from service.model.errors import ObjectError


def test_a_refused_object_is_named_from_its_origin_down_to_the_field() -> None:
    error = ObjectError("a.yaml", "EgressNATPolicy", "web", "spec.egress[0]", "is wrong")
    assert str(error) == "a.yaml: EgressNATPolicy web: spec.egress[0]: is wrong"


def test_what_is_not_known_of_a_refused_object_leaves_no_gap() -> None:
    assert str(ObjectError("a.yaml", "", "", "", "is no YAML")) == "a.yaml: is no YAML"
    assert str(ObjectError("kubernetes", "Node", "", "spec", "is wrong")) == "kubernetes: Node: spec: is wrong"
