"""scored → rewritten: rephrased, refused, moralized."""

from safety_ray.job import main
from safety_ray.rewrite.stage import RewriteConfig, run

if __name__ == "__main__":
    main(RewriteConfig, run)
