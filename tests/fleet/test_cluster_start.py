"""A Ray that does not start is one line, whatever it raises."""

import pytest
import ray

from pipeline.errors import KuakaError
from pipeline.fleet.cluster import ray_cluster


@pytest.mark.parametrize(
    "raised",
    [
        Exception(
            "The current node timed out during startup.\nThis could happen because some of the Ray processes failed"
        ),
        RuntimeError("The current node timed out during startup."),
    ],
)
def test_a_node_that_does_not_come_up_in_time_is_one_line(monkeypatch: pytest.MonkeyPatch, raised: Exception) -> None:
    def init(**options: object) -> None:
        raise raised

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(KuakaError) as error, ray_cluster(None):
        pass
    assert str(error.value) == "Ray cannot start: The current node timed out during startup."
