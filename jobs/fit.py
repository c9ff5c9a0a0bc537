"""labelled texts → classifier."""

from safety_ray.job import main
from safety_ray.score.fit import FitConfig, run

if __name__ == "__main__":
    main(FitConfig, run)
