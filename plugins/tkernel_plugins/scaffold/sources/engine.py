"""`infer_backend: demo`: a decoding loop without a cache, one forward pass for each token."""

from dataclasses import dataclass

from tkernel import hookimpl
from tkernel.errors import TkError
from tkernel.types.engine import Delta, Prompt, Sampling, TokenLogprob, collect


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

    def logits(self, ids):
        """What the model says of the next token."""
        import torch

        mode = self.module.training
        with torch.no_grad():
            logits = self.module.eval()(input_ids=torch.tensor([ids])).logits[0, -1].float()
        self.module.train(mode)
        return logits

    def next_id(self, ids, logits, sampling, generator):
        """The next token of one sequence."""
        import torch

        seen, logits = torch.tensor(sorted(set(ids))), logits.clone()
        penalty = sampling.repetition_penalty
        logits[seen] = torch.where(logits[seen] > 0, logits[seen] / penalty, logits[seen] * penalty)
        if not sampling.do_sample:
            return int(logits.argmax())
        probabilities, order = (logits / sampling.temperature).softmax(-1).sort(descending=True)
        keep = probabilities.cumsum(-1) - probabilities < sampling.top_p
        if sampling.top_k:
            keep[sampling.top_k :] = False
        return int(order[torch.multinomial(probabilities * keep, 1, generator=generator)])

    def logprobs(self, token, logits, sampling):
        """The log-probability of a token and of the most likely ones, if they are asked for."""
        if sampling.logprobs is None:
            return ()
        scores = logits.log_softmax(-1)
        best = scores.topk(sampling.logprobs)
        top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        return (TokenLogprob(token, float(scores[token]), top),)

    def text(self, ids, sampling):
        """The text of a reply so far, up to its last complete character, and whether a stop text ended it."""
        text = self.tokenizer.decode(
            [token for token in ids if token not in self.renderer.stop_ids],
            clean_up_tokenization_spaces=False,
        ).rstrip("\ufffd")
        places = [text.find(stop) for stop in sampling.stop if stop in text]
        return (text[: min(places)], True) if places else (text, False)

    def prompt_ids(self, conversation):
        """The ids to go on from."""
        if not isinstance(conversation, Prompt):
            return self.renderer.prompt_ids(conversation)
        return list(conversation.ids or self.tokenizer(conversation.text).input_ids)

    def generator_of(self, index, sampling):
        """What reply number `index` draws from."""
        import torch

        seed = getattr(sampling, "seed", None)
        return self.generator if seed is None else torch.Generator().manual_seed(seed + index)

    def stream(self, conversations, sampling=None):
        sampling = sampling or self.options
        if getattr(sampling, "grammar", None) or getattr(sampling, "adapter", None):
            raise TkError("the engine `demo` has neither grammars nor adapters")
        prompts = [self.prompt_ids(c) for c in conversations for _ in range(sampling.n)]
        generators = [self.generator_of(index, sampling) for index in range(len(prompts))]
        replies = [[] for _ in prompts]
        sent = ["" for _ in prompts]
        active = list(range(len(prompts)))
        while active:
            for index in list(active):
                prompt, reply = prompts[index], replies[index]
                logits = self.logits(prompt + reply)
                reply.append(self.next_id(prompt + reply, logits, sampling, generators[index]))
                text, ended = self.text(reply, sampling)
                stopped = ended or reply[-1] in self.renderer.stop_ids
                reason = "stop" if stopped else "length" if len(reply) == sampling.max_new_tokens else None
                # What may be the beginning of a stop text waits until the reply goes on.
                held = max((len(stop) - 1 for stop in sampling.stop), default=0)
                piece = text[len(sent[index]) : len(text) if reason else max(0, len(text) - held)]
                sent[index] += piece
                if reason is not None:
                    active.remove(index)
                logprobs = self.logprobs(reply[-1], logits, sampling)
                yield Delta(index, piece, (reply[-1],), reason, logprobs, len(prompt) if reason else 0)

    def reply(self, conversations, sampling=None):
        deltas = self.stream(conversations, sampling)
        return collect(deltas, conversations, (sampling or self.options).n, self.renderer.parse_reply)

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
