"""On the image networks of the zoo, in-place relus and all, a context's own pass equals the recorded one."""

from typing import Any

import pytest
import torch

from funcattr.compat.torchray.attribution.common import saliency
from funcattr.compat.torchray.attribution.deconvnet import DeConvNetContext
from funcattr.compat.torchray.attribution.excitation_backprop import ExcitationBackpropContext
from funcattr.compat.torchray.attribution.guided_backprop import GuidedBackpropContext

from ... import zoo

IMAGES = [case.name for case in zoo.CASES if len(case.shape) == 4 and (case.has_relu or case.name == "mobilenet_v2")]


@pytest.mark.parametrize("context", [GuidedBackpropContext, DeConvNetContext, ExcitationBackpropContext])
@pytest.mark.parametrize("name", IMAGES)
def test_the_live_pass_equals_the_recorded_one(name: str, context: Any) -> None:
    case = zoo.case(name)
    model, (x,) = case.build(), case.inputs()
    options: dict[str, Any] = {"context_builder": context, "gradient_to_saliency": lambda x: x.grad}
    recorded, probes = saliency(model, x, 1, debug=True, **options)
    assert recorded.abs().max() > 0
    scale = recorded.abs().max()
    torch.testing.assert_close(probes[""].data[0].grad / scale, recorded / scale, rtol=1e-8, atol=1e-8)
