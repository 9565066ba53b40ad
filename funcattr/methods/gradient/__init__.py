"""Methods of one gradient: gradient, guided backpropagation, Grad-CAM, LayerCAM; and noise around any method."""
