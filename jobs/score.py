"""documents → scored."""

from safety_ray.job import main
from safety_ray.score.stage import ScoreConfig, run

if __name__ == "__main__":
    main(ScoreConfig, run)
