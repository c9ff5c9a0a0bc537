"""token rows → model."""

from safety_ray.job import main
from safety_ray.train.stage import PretrainConfig, run

if __name__ == "__main__":
    main(PretrainConfig, run)
