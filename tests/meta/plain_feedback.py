"""`stage: demo_kto`: KTO in the plain loop of `tk_demo_stage`."""

from plain_preference import BETA, PreferenceStage
from tk_demo_stage import IGNORED

from tkernel import Conversation


class FeedbackStage(PreferenceStage):
    """Completions one by one, unpadded; the divergence is the mean over the global batch."""

    name = "demo_kto"
    rows = "feedback"

    def encode(self, request, loaded):
        """For each row the completion, the one of the row before after the same prompt, and the label."""
        import torch

        rows = [row for dataset in loaded for row in dataset.rows]
        samples = []
        for position, row in enumerate(rows):
            sides = []
            for completion in (row["completion"], self.mismatched(rows, position)):
                whole = Conversation.from_row({**row, "messages": [*row["messages"], *completion]})
                (encoded,) = request.renderer.encode([whole])
                labels = torch.tensor(encoded.labels)
                weights = torch.tensor(encoded.weights or [1.0] * len(labels)) * (labels != IGNORED)
                sides.append((torch.tensor([encoded.input_ids]), labels, weights))
            samples.append((*sides, row["label"]))
        return samples

    def mismatched(self, rows, position):
        return rows[position - 1]["completion"]

    def ratio(self, module, side):
        import torch

        with torch.no_grad():
            reference = self.logp(self.reference, *side)
        return self.logp(module, *side) - reference

    def losses(self, module, batch):
        import torch

        with torch.no_grad():
            kl = torch.stack([self.ratio(module, other) for _, other, _ in batch]).mean().clamp(min=0)
        ratios = [self.ratio(module, own) for own, _, _ in batch]
        signs = [1 if liked else -1 for _, _, liked in batch]
        rewards = {
            sign: [BETA * r.item() for r, s in zip(ratios, signs, strict=True) if s == sign]
            for sign in (1, -1)
        }
        means = [sum(rewards[sign]) / max(len(rewards[sign]), 1) for sign in (1, -1)]
        self.margins = [means[0] - means[1]]
        return [1 - torch.sigmoid(BETA * s * (r - kl)) for s, r in zip(signs, ratios, strict=True)]

    def step(self, module, batch, custom):
        """One backward pass over a global batch; its loss."""
        loss = sum(self.losses(module, batch)) / len(batch)
        loss.backward()
        return loss.item()

    def evaluate(self, module, rows):
        """The mean over all rows."""
        import torch

        module.eval()
        with torch.no_grad():
            losses = self.losses(module, rows)
        module.train()
        return (sum(losses) / len(losses)).item()


STAGE = FeedbackStage()
