"""A missing tool is told: it skips a test where anyone develops, and fails it where CI has promised the tool."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.k8s import tools


def test_a_missing_tool_skips_and_in_ci_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test of k8s/ passes for want of a tool unseen."""
    monkeypatch.setattr(tools, "DIRECTORY", tmp_path)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="make k8s-tools"):
        tools.need("helm4")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="CI should have"):
        tools.need("helm4")
    with pytest.raises(pytest.skip.Exception, match="no no-such-tool"):
        tools.need("no-such-tool")
    (tmp_path / "helm4").touch()
    assert tools.need("helm4") == tmp_path / "helm4"
