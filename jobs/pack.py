"""scored + rewritten → token rows."""

from safety_ray.job import main
from safety_ray.pack.stage import PackConfig, run

if __name__ == "__main__":
    main(PackConfig, run)
