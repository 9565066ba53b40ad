"""Forward passes only: occlusion, RISE, ablation, Shapley values, LIME."""
