"""The names of `captum.attr`, each served by a function of the package."""

from typing import Any

from .ablation import FeatureAblation as FeatureAblation
from .ablation import FeaturePermutation as FeaturePermutation
from .ablation import Occlusion as Occlusion
from .attribution import Attribution as Attribution
from .attribution import GradientAttribution as GradientAttribution
from .attribution import LayerAttribution as LayerAttribution
from .attribution import NeuronAttribution as NeuronAttribution
from .attribution import PerturbationAttribution as PerturbationAttribution
from .dataloader import DataLoaderAttribution as DataLoaderAttribution
from .deep_lift import DeepLift as DeepLift
from .deep_lift import DeepLiftShap as DeepLiftShap
from .embeddings import InterpretableEmbeddingBase as InterpretableEmbeddingBase
from .embeddings import TokenReferenceBase as TokenReferenceBase
from .embeddings import configure_interpretable_embedding_layer as configure_interpretable_embedding_layer
from .embeddings import remove_interpretable_embedding_layer as remove_interpretable_embedding_layer
from .gradients import Deconvolution as Deconvolution
from .gradients import GuidedBackprop as GuidedBackprop
from .gradients import GuidedGradCam as GuidedGradCam
from .gradients import InputXGradient as InputXGradient
from .gradients import Saliency as Saliency
from .layer_differences import LayerDeepLift as LayerDeepLift
from .layer_differences import LayerDeepLiftShap as LayerDeepLiftShap
from .layer_differences import LayerFeatureAblation as LayerFeatureAblation
from .layer_differences import LayerFeaturePermutation as LayerFeaturePermutation
from .layer_differences import LayerGradientShap as LayerGradientShap
from .layer_differences import LayerIntegratedGradients as LayerIntegratedGradients
from .layers import InternalInfluence as InternalInfluence
from .layers import LayerActivation as LayerActivation
from .layers import LayerConductance as LayerConductance
from .layers import LayerGradCam as LayerGradCam
from .layers import LayerGradientXActivation as LayerGradientXActivation
from .lime_parts import SkLearnLasso as SkLearnLasso
from .lime_parts import SkLearnLinearRegression as SkLearnLinearRegression
from .lime_parts import SkLearnRidge as SkLearnRidge
from .lime_parts import get_exp_kernel_similarity_function as get_exp_kernel_similarity_function
from .lrp import LRP as LRP
from .lrp import LayerLRP as LayerLRP
from .neurons import NeuronConductance as NeuronConductance
from .neurons import NeuronDeconvolution as NeuronDeconvolution
from .neurons import NeuronDeepLift as NeuronDeepLift
from .neurons import NeuronDeepLiftShap as NeuronDeepLiftShap
from .neurons import NeuronFeatureAblation as NeuronFeatureAblation
from .neurons import NeuronGradient as NeuronGradient
from .neurons import NeuronGradientShap as NeuronGradientShap
from .neurons import NeuronGuidedBackprop as NeuronGuidedBackprop
from .neurons import NeuronIntegratedGradients as NeuronIntegratedGradients
from .noise_tunnel import NoiseTunnel as NoiseTunnel
from .paths import GradientShap as GradientShap
from .paths import IntegratedGradients as IntegratedGradients
from .shapley import KernelShap as KernelShap
from .shapley import Lime as Lime
from .shapley import ShapleyValues as ShapleyValues
from .shapley import ShapleyValueSampling as ShapleyValueSampling

_REFUSED = {
    **dict.fromkeys(
        ("LLMAttribution", "LLMAttributionResult", "LLMGradientAttribution", "RemoteLLMAttribution"),
        "call a method on the language model itself, as docs/tutorials shows",
    ),
    **dict.fromkeys(("RemoteLLMProvider", "VLLMProvider"), "a remote model has no tensors to attribute to"),
    **dict.fromkeys(
        ("TextTemplateInput", "TextTokenInput", "ImageMaskInput", "InterpretableInput", "ProductBaselines"),
        "give feature_mask= and baselines= to the method",
    ),
    "LimeBase": "use Lime, or funcattr.lime with its options",
    "visualization": "use funcattr.show",
    **dict.fromkeys(("Summarizer", "SummarizerSingleTensor", "ClassSummarizer"), "use torch on the attributions"),
    **dict.fromkeys(("CommonStats", "StatValue", "Count", "Max", "Mean", "Min"), "use torch on the attributions"),
    **dict.fromkeys(("MSE", "StdDev", "Sum", "Var"), "use torch on the attributions"),
}
"""Names of Captum's that are not served, and what to do instead."""


def __getattr__(name: str) -> Any:
    if name in _REFUSED:
        raise ImportError(f"funcattr.compat.captum.attr.{name} is not served: {_REFUSED[name]}.")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
