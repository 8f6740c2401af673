"""The memory of the NLL estimate does not grow with the number of samples."""

import pytest
import torch
from hydra.utils import instantiate
from parts import composed, examples, smaller
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from latentlab.evaluation import nll

MODELS = ["vae", "mog_vae", "vamp_vae", "flow_vae", "categorical_vae", "conditional_vae"]


class Peak(TorchDispatchMode):
    """Records the size in bytes of the largest tensor that an operation returns."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        made = [leaf.nbytes for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.bytes = max(self.bytes, *made, 0) if made else self.bytes
        return result


@pytest.mark.parametrize("model", MODELS)
def test_the_largest_tensor_does_not_depend_on_the_number_of_samples(model):
    module = instantiate(smaller(composed(f"model={model}")).module).eval()
    batch = examples(instantiate(composed().protocol), n=20)
    peaks = []
    for samples in (20, 200):
        with Peak() as peak:
            found = nll(module.model, [batch], samples, chunk=10, expected=20)
        assert found["nll_samples"] == samples and found["nll"] > 0
        peaks.append(peak.bytes)
    assert peaks[0] == peaks[1] >= 10 * 20 * 784 * 4
