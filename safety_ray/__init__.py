"""safety_ray: Safety Pretraining (arXiv 2504.16980) on Ray, from web documents to a served model."""

__version__ = "0.1.0"
