"""TorchRay's names, signatures and defaults on funcattr: `torchray.X` becomes `funcattr.compat.torchray.X`."""
