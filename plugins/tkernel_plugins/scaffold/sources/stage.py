"""`stage: demo`: supervised fine-tuning in one plain PyTorch loop."""

import json
import random
from pathlib import Path

from tkernel import Conversation, StageResult, hookimpl
from tkernel.errors import TkError

IGNORED = -100


def loss_sum(outputs, labels, weights):
    """The weighted sum of the cross entropies of one unpadded sample."""
    from torch.nn.functional import cross_entropy

    losses = cross_entropy(outputs.logits[0, :-1], labels[0, 1:], ignore_index=IGNORED, reduction="none")
    return (losses * weights[1:]).sum()


def weight_of(batch):
    """The weight of all supervised tokens; the first token of a sample is never predicted."""
    return sum(float(weights[1:].sum()) for _, _, weights in batch)


def epochs(rows, size, generator):
    """Batches of `size` rows, for ever, in a new order each epoch."""
    while True:
        order = list(rows)
        generator.shuffle(order)
        yield from (order[start : start + size] for start in range(0, len(order), size))


class Stage:
    """Samples one by one, unpadded; the loss is the mean over the tokens of the global batch."""

    name = "demo"
    rows = "supervised"
    training_arguments = "transformers:TrainingArguments"

    def encode(self, request, loaded):
        """Ids and labels, each `(1, tokens)`, and weights `(tokens,)`, 0 where nothing is learned."""
        import torch

        samples = []
        conversations = [Conversation.from_row(row) for dataset in loaded for row in dataset.rows]
        for encoded in request.renderer.encode(conversations):
            labels = torch.tensor([encoded.labels])
            weights = torch.tensor(encoded.weights or [1.0] * len(encoded.labels)) * (labels[0] != IGNORED)
            samples.append((torch.tensor([encoded.input_ids]), labels, weights))
        return samples

    def evaluate(self, module, rows):
        """The mean over the tokens of all rows."""
        import torch

        module.eval()
        with torch.no_grad():
            total = sum(loss_sum(module(input_ids=ids), *targets).item() for ids, *targets in rows)
        module.train()
        return total / weight_of(rows)

    def step(self, module, batch, custom):
        """One backward pass over a global batch; its loss."""
        count = weight_of(batch)
        total = 0.0
        for ids, labels, weights in batch:
            outputs = module(input_ids=ids)
            if custom is not None:
                loss = custom(outputs, labels, count) / len(batch)
            else:
                loss = loss_sum(outputs, labels, weights) / count
            loss.backward()
            total += loss.item()
        return total

    def schedule(self, arguments, step, steps):
        """The learning rate of a step, counted from 0."""
        rate = arguments["learning_rate"]
        return rate * (1 - step / steps) if arguments.get("lr_scheduler_type") == "linear" else rate

    def logged(self, loss):
        """What callbacks hear of a step."""
        return {"loss": loss}

    def save(self, request, folder):
        """Model and tokenizer."""
        request.bundle.module.save_pretrained(folder)
        request.bundle.tokenizer.save_pretrained(folder)

    @hookimpl
    def train_stage(self, request):
        import torch

        if not request.train:
            raise TkError("stage 'demo' needs a dataset", hint="Name one with `dataset:`.")
        module, arguments = request.bundle.module, request.arguments
        callbacks, custom = request.slots.take("callbacks"), request.slots.take("loss")
        train, evaluation = self.encode(request, request.train), self.encode(request, request.eval)
        size = arguments.get("per_device_train_batch_size", 8) * arguments.get(
            "gradient_accumulation_steps", 1
        )
        per_epoch = -(-len(train) // size)
        steps = arguments.get("max_steps") or int(arguments.get("num_train_epochs", 3)) * per_epoch
        batches = epochs(train, size, random.Random(request.seed))
        torch.manual_seed(request.seed)
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        factory = request.slots.take("optimizer")
        optimizer = factory(module, arguments) if factory else torch.optim.AdamW(trained, weight_decay=0.0)
        done = 0
        if checkpoint := arguments.get("resume_from_checkpoint"):
            state = torch.load(Path(checkpoint) / "state.pt", weights_only=True)
            module.load_state_dict(state["module"])
            optimizer.load_state_dict(state["optimizer"])
            torch.set_rng_state(state["generator"])
            done = state["step"]
            for _ in range(done):
                next(batches)
        losses = []
        with open(request.output_dir / "log.jsonl", "w", encoding="utf-8") as log:
            for step in range(done, steps):
                for group in optimizer.param_groups:
                    group["lr"] = self.schedule(arguments, step, steps)
                losses.append(self.step(module, next(batches), custom))
                optimizer.step()
                optimizer.zero_grad()
                entry = {"current_steps": step + 1, "total_steps": steps, "loss": losses[-1]}
                log.write(json.dumps(entry) + "\n")
                logs = [self.logged(losses[-1])]
                if evaluation and arguments.get("eval_strategy") == "steps":
                    logs.append({"eval_loss": self.evaluate(module, evaluation)})
                for callback in callbacks:
                    for values in logs:
                        callback.on_log(None, None, None, logs=values)
                if arguments.get("save_strategy") == "steps" and (step + 1) % arguments["save_steps"] == 0:
                    folder = request.output_dir / f"checkpoint-{step + 1}"
                    folder.mkdir()
                    state = {
                        "module": module.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "generator": torch.get_rng_state(),
                        "step": step + 1,
                    }
                    torch.save(state, folder / "state.pt")
        self.save(request, request.output_dir)
        metrics = {"train_loss": sum(losses) / max(len(losses), 1)}
        return StageResult(request.bundle, request.output_dir, steps, metrics)


STAGE = Stage()
