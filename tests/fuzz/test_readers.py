"""Readers of users' files give the right values, or a message.

`python -m benchmarks.fuzz_readers` tries more inputs.
"""

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.readers import READERS


@pytest.mark.parametrize("name", READERS)
def test_a_reader_gives_the_right_values_or_a_message(name: str) -> None:
    reader = READERS[name]

    @settings(max_examples=60, deadline=None, derandomize=True, database=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(reader.inputs)
    def run(example: object) -> None:
        reader.check(example)

    run()
