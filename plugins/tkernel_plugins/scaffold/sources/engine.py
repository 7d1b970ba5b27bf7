"""`infer_backend: demo`: a decoding loop without a cache, one forward pass for each token."""

from dataclasses import dataclass

from tkernel import hookimpl
from tkernel.errors import TkError
from tkernel.types.engine import Delta, Sampling, collect


@dataclass(frozen=True)
class Options(Sampling):
    """Options of `infer_backend: demo`."""


class Engine:
    """Takes the conversations of a batch in turns, one token each."""

    def __init__(self, request):
        import torch

        self.module, self.tokenizer = request.bundle.module, request.bundle.tokenizer
        self.renderer, self.options = request.renderer, request.options
        self.generator = torch.Generator().manual_seed(request.seed)

    def next_id(self, ids, sampling):
        """The next token of one sequence."""
        import torch

        mode = self.module.training
        with torch.no_grad():
            logits = self.module.eval()(input_ids=torch.tensor([ids])).logits[0, -1].float()
        self.module.train(mode)
        seen = torch.tensor(sorted(set(ids)))
        penalty = sampling.repetition_penalty
        logits[seen] = torch.where(logits[seen] > 0, logits[seen] / penalty, logits[seen] * penalty)
        if not sampling.do_sample:
            return int(logits.argmax())
        probabilities, order = (logits / sampling.temperature).softmax(-1).sort(descending=True)
        keep = probabilities.cumsum(-1) - probabilities < sampling.top_p
        if sampling.top_k:
            keep[sampling.top_k :] = False
        return int(order[torch.multinomial(probabilities * keep, 1, generator=self.generator)])

    def text(self, ids):
        """The text of a reply so far, up to its last complete character."""
        text = self.tokenizer.decode(
            [token for token in ids if token not in self.renderer.stop_ids],
            clean_up_tokenization_spaces=False,
        )
        return text.rstrip("\ufffd")

    def stream(self, conversations, sampling=None):
        sampling = sampling or self.options
        prompts = [self.renderer.prompt_ids(conversation) for conversation in conversations]
        replies = [[] for _ in prompts]
        sent = ["" for _ in prompts]
        active = list(range(len(prompts)))
        while active:
            for index in list(active):
                reply = replies[index]
                reply.append(self.next_id(prompts[index] + reply, sampling))
                stopped = reply[-1] in self.renderer.stop_ids
                reason = "stop" if stopped else "length" if len(reply) == sampling.max_new_tokens else None
                piece = self.text(reply)[len(sent[index]) :]
                sent[index] += piece
                if reason is not None:
                    active.remove(index)
                yield Delta(index, piece, (reply[-1],), reason)

    def reply(self, conversations, sampling=None):
        return collect(self.stream(conversations, sampling), len(conversations), self.renderer.parse_reply)

    def close(self):
        self.module = None


class Plugin:
    """Works with a bundle in memory."""

    name, Options = "demo", Options

    @hookimpl
    def generate(self, request):
        if request.bundle is None:
            raise TkError("the engine `demo` needs a model in memory")
        return Engine(request)


ENGINE = Plugin()
