"""Learning from what the model says: rollouts, rewards, and the trainers of `grpo`, `rloo` and `ppo`."""
