"""documents → labelled: a language model judges."""

from safety_ray.job import main
from safety_ray.score.label_stage import LabelConfig, run

if __name__ == "__main__":
    main(LabelConfig, run)
