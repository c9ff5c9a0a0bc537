"""model → metrics."""

from safety_ray.evaluate.stage import EvaluateConfig, run
from safety_ray.job import main

if __name__ == "__main__":
    main(EvaluateConfig, run)
