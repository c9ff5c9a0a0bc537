"""documents + classifier → cascade."""

from safety_ray.job import main
from safety_ray.score.cascade_fit import CascadeConfig, run

if __name__ == "__main__":
    main(CascadeConfig, run)
