"""Attribution from sites to sites of a model."""
