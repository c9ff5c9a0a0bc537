"""documents → classifier → scored → rewritten → report card → token rows → model → metrics → endpoint."""

from safety_ray.job import main
from safety_ray.pipeline import PipelineConfig, run

if __name__ == "__main__":
    main(PipelineConfig, run)
