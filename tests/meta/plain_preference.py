"""`stage: demo_dpo`: direct preference optimisation in the plain loop of `tk_demo_stage`."""

from tk_demo_stage import IGNORED, Stage

from tkernel import Conversation, hookimpl

BETA = 0.1


class PreferenceStage(Stage):
    """Pairs one by one, reply by reply, unpadded; the loss is the mean over the pairs of the global batch."""

    name = "demo_dpo"
    rows = "preference"

    @hookimpl
    def train_stage(self, request):
        if request.train:
            self.reference = self.load_reference(request)
        return super().train_stage(request)

    def load_reference(self, request):
        return request.load_model("reference").module

    def encode(self, request, loaded):
        """For each pair ids, labels and weights of both replies."""
        import torch

        samples = []
        for row in (row for dataset in loaded for row in dataset.rows):
            sides = []
            for side in ("chosen", "rejected"):
                whole = Conversation.from_row({**row, "messages": [*row["messages"], *row[side]]})
                (encoded,) = request.renderer.encode([whole])
                labels = torch.tensor(encoded.labels)
                weights = torch.tensor(encoded.weights or [1.0] * len(labels)) * (labels != IGNORED)
                sides.append((torch.tensor([encoded.input_ids]), labels, weights))
            samples.append(sides)
        return samples

    def logp(self, module, ids, labels, weights):
        logps = module(input_ids=ids).logits[0, :-1].log_softmax(-1)
        return (logps.gather(1, labels[1:].clamp(min=0)[:, None])[:, 0] * weights[1:]).sum()

    def margin(self, module, pair):
        """The difference of the two log-ratios."""
        import torch

        with torch.no_grad():
            reference = [self.logp(self.reference, *side) for side in pair]
        chosen, rejected = (self.logp(module, *side) - ref for side, ref in zip(pair, reference, strict=True))
        return chosen - rejected

    def pair_loss(self, margin):
        import torch

        return -torch.nn.functional.logsigmoid(BETA * margin)

    def step(self, module, batch, custom):
        """One backward pass over a global batch; its loss."""
        total = 0.0
        self.margins = []
        for pair in batch:
            margin = self.margin(module, pair)
            self.margins.append(BETA * margin.item())
            loss = self.pair_loss(margin) / len(batch)
            loss.backward()
            total += loss.item()
        return total

    def logged(self, loss):
        return {"loss": loss, "rewards/margins": sum(self.margins) / len(self.margins)}

    def evaluate(self, module, rows):
        """The mean over all pairs."""
        import torch

        module.eval()
        with torch.no_grad():
            losses = [self.pair_loss(self.margin(module, pair)).item() for pair in rows]
        module.train()
        return sum(losses) / len(losses)


STAGE = PreferenceStage()
