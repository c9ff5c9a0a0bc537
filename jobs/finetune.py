"""model + chats → model."""

from safety_ray.job import main
from safety_ray.train.finetune import FinetuneConfig, run

if __name__ == "__main__":
    main(FinetuneConfig, run)
