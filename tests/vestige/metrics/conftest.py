import pytest


@pytest.fixture
def untyped(request: pytest.FixtureRequest) -> None:
    """Skip where annotations are checked at run time: there, jaxtyping refuses an unknown name before we can."""
    if request.config.getoption("--jaxtyping-packages"):
        pytest.skip("jaxtyping raises first")
