"""The engines that a configuration chooses."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sidecar.config import Config
from sidecar.engines import hot_of, record_of
from sidecar.errors import ConfigInvalid
from sidecar.stores.hot import Hot
from sidecar.view import View
from tests.unit.test_config import GOOD

ENGINES = {"sqlite": "sqlite", "postgresql": "postgresql", "postgres": "postgresql", "memory": "memory"}
"""By what stands before the address; all others are Redis."""


@pytest.mark.parametrize(("name", "value"), GOOD)
async def test_every_address_has_its_engine(name: str, value: str) -> None:
    """Each form that the configuration takes is one that its engine can read; nothing is connected to."""
    if name == "record":
        made = record_of(Config(record=value, plaintext=True)).engine
    else:
        hot: Hot[View] = hot_of(Config(hot=value))
        made = hot.engine
        await hot.close()
    assert made == ENGINES.get(value.partition(":")[0], "redis")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("record", "postgresql://u:hunter2@h/d?nonsense=1"),
        ("hot", "redis://:hunter2@h:65536"),
        ("hot", "redis://:hunter2@h/database"),
        ("hot", "redis://:hunter2@h,i"),
        ("hot", "redis+unix://h:hunter2"),
        ("hot", "redis+sentinel://:hunter2@h:1,i:2"),
        ("hot", "redis+cluster://:hunter2@h:1,i:2/3"),
    ],
)
def test_an_address_that_its_engine_cannot_read(name: str, value: str) -> None:
    """What the driver would stumble over is told as a setting, and not quoted."""
    config = Config(plaintext=True, **{name: value})
    with pytest.raises(ConfigInvalid) as caught:
        record_of(config) if name == "record" else hot_of(config)
    assert caught.value.field == name
    assert "hunter2" not in caught.value.message


def test_a_driver_is_imported_when_it_is_chosen() -> None:
    """The embedded engines load neither psycopg nor redis."""
    code = (
        "import sys; from sidecar.config import Config; from sidecar.engines import hot_of, record_of;"
        " record_of(Config(plaintext=True)), hot_of(Config());"
        " sys.exit(bool({'psycopg', 'redis'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
