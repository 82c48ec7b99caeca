"""Portable arithmetic, in processes of its own: it replaces kernels of torch for good."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aerialdreams.pipeline.portable_arithmetic import INSTRUCTION_CAPS, is_x86
from tests.conftest import ROOT

KERNELS = """
import numpy as np, torch
from aerialdreams.pipeline.portable_arithmetic import use_portable_kernels
use_portable_kernels()
values = torch.rand(1001, generator=torch.Generator().manual_seed(0))
for some in (values, values.double(), values[3], values[:6].reshape(2, 3).t()):
    exact = np.sqrt(some.numpy())
    assert np.array_equal(torch.sqrt(some).numpy(), exact)
    assert np.array_equal((some**0.5).numpy(), exact)
    assert torch.equal(some**2, some * some)
assert (torch.arange(3) ** 2).tolist() == [0, 1, 4] and torch.tensor(9).sqrt() == 3
assert torch.tensor(4.0, dtype=torch.bfloat16).sqrt().dtype == torch.bfloat16
leaf = torch.tensor([4.0, 9.0], requires_grad=True)
(leaf.sqrt() + leaf**0.5 + leaf**2).sum().backward()
assert leaf.grad is not None and torch.allclose(leaf.grad, leaf.detach() ** -0.5 + 2 * leaf)
a, b, bias = torch.randn(5, 7), torch.randn(7, 3), torch.randn(3)
product = a.double() @ b.double()
assert torch.allclose((a @ b).double(), product, atol=1e-5)
assert torch.allclose(torch.addmm(bias, a, b).double(), product + bias, atol=1e-5)
print("right")
"""


@pytest.mark.skipif(not is_x86(), reason="not an x86 CPU")
def test_kernels_give_exact_roots_and_right_products() -> None:
    done = subprocess.run([sys.executable, "-c", KERNELS], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "right\n", done.stderr


@pytest.mark.skipif(not is_x86(), reason="not an x86 CPU")
@pytest.mark.parametrize("portable", [True, False])
def test_params_alone_cap_the_instructions_of_stages(tmp_path: Path, portable: bool) -> None:
    text = (ROOT / "params.yaml").read_text()
    if portable:
        text = text.replace("portable: false", "portable: true")
    (tmp_path / "params.yaml").write_text(text)
    code = f"import os, stages; print([os.environ.get(n) for n in {list(INSTRUCTION_CAPS)}])"
    environment = {k: v for k, v in os.environ.items() if k not in INSTRUCTION_CAPS}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    expected = list(INSTRUCTION_CAPS.values()) if portable else [None] * len(INSTRUCTION_CAPS)
    assert done.stdout == f"{expected}\n"
