"""The built-in dataset formats keep the contract."""

from tkernel.testing import DatasetContract

PAIRS = (
    ("Who runs the inn?", "The user does.", "Nobody does."),
    ("Where is the naïve café? 😀", "Behind the inn.", "In front of it."),
    ("How much is 12 and 12?", "It is 24.", "It is 1212."),
)
ROLES = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}


class TestAlpaca(DatasetContract):
    plugin = "alpaca"


class TestAlpacaPreference(DatasetContract):
    plugin = "alpaca"
    rows = "preference"
    examples = tuple(
        {"instruction": q, "input": "", "chosen": good, "rejected": bad} for q, good, bad in PAIRS
    )
    columns = {"prompt": "instruction", "query": "input", "chosen": "chosen", "rejected": "rejected"}


class TestAlpacaFeedback(DatasetContract):
    plugin = "alpaca"
    rows = "feedback"
    examples = tuple({"instruction": q, "input": "", "output": good, "label": True} for q, good, _ in PAIRS)
    columns = {"prompt": "instruction", "query": "input", "response": "output", "kto_tag": "label"}


class TestSharegpt(DatasetContract):
    plugin = "sharegpt"


class TestSharegptPreference(DatasetContract):
    plugin = "sharegpt"
    rows = "preference"
    examples = tuple(
        {
            "conversations": [{"from": "human", "value": q}],
            "chosen": {"from": "gpt", "value": good},
            "rejected": {"from": "gpt", "value": bad},
        }
        for q, good, bad in PAIRS
    )
    columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}


class TestSharegptWithOtherTags(DatasetContract):
    plugin = "sharegpt"
    examples = tuple(
        {"talk": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a, _ in PAIRS
    )
    said = tuple([("user", q), ("assistant", a)] for q, a, _ in PAIRS)
    columns = {"messages": "talk"}
    tags = ROLES


class TestOpenai(DatasetContract):
    plugin = "openai"


class TestText(DatasetContract):
    plugin = "text"


class TestTRL(DatasetContract):
    plugin = "trl"
    examples = tuple({"prompt": q, "completion": good} for q, good, _ in PAIRS)
    said = tuple([("user", q), ("assistant", a)] for q, a, _ in PAIRS)


class TestTRLPreference(DatasetContract):
    plugin = "trl"
    rows = "preference"
    examples = tuple({"prompt": q, "chosen": good, "rejected": bad} for q, good, bad in PAIRS)


class TestTRLFeedback(DatasetContract):
    plugin = "trl"
    rows = "feedback"
    examples = tuple({"prompt": q, "completion": good, "label": True} for q, good, _ in PAIRS)
