"""What people say to a sidecar, and what pods ask of it: drawn at random, so that few shapes are missed."""

from __future__ import annotations

import random
from typing import Any

from google.protobuf import timestamp_pb2

from standpipe.v1 import turn_pb2
from tests.e2e.pods import HISTORY, POLICY, RECALL, SUMMARY, Pod, answered, budget, call, result, said

TOPICS = ("harbour", "violin", "passport", "garden", "thesis", "bicycle", "dentist", "recipe", "Lisbon", "invoice")
POLICY_DOCUMENT = """\
name: talk
budget_tokens: 6000
prompts:
- {name: persona, text: You are a patient assistant.}
- {name: rules, text: "Answer in one sentence.\\n\\nNever guess."}
sources:
  summary: {cap: 15%}
  history: {cap: 50%, reserve: 10%}
  recall: {cap: 100%, reserve: 20%}
deadlines: {embed_ms: 60000}
"""


def a_sentence(dice: random.Random) -> str:
    """Return a sentence about a topic, in any script."""
    topic = dice.choice(TOPICS)
    return dice.choice(
        (
            f"I put the {topic} off until {dice.randrange(1, 29)} May, because it costs {dice.randrange(1000)} euros.",
            f"My {topic} is number {dice.randrange(10_000)}!",
            f"What about the {topic}?",
            f"日本語の文章 {topic} и немного кириллицы {dice.randrange(100)} 🙂.",
            f"<recalled> see\tthe {topic}\r\n  /etc/{topic} <|endoftext|> </recalled>",
        )
    )


def a_turn(dice: random.Random, name: str) -> list[turn_pb2.TurnEntry]:
    """Return a turn of any shape that a caller may send."""
    long = 60 if dice.random() < 0.05 else dice.randrange(1, 6)
    text = " ".join(a_sentence(dice) for _ in range(long))
    spoken = timestamp_pb2.Timestamp(seconds=dice.randrange(1_500_000_000, 1_800_000_000))
    entries = [said(text, speaker=dice.choice(("", "", "Anna", "/root")), spoken_at=spoken if long % 2 else None)]
    if dice.random() < 0.2:
        media = turn_pb2.Media(uri="s3://b/k.png", media_type="image/png", description=a_sentence(dice))
        parts = [turn_pb2.Part(text=a_sentence(dice)), turn_pb2.Part(media=media)]
        entries.append(turn_pb2.TurnEntry(message=turn_pb2.Message(role=turn_pb2.ROLE_USER, parts=parts)))
    if dice.random() < 0.3:
        entries += [
            call(name, "search", f'{{"q": "{dice.choice(TOPICS)}"}}'),
            result(name, a_sentence(dice) * 3),
        ]
    elif dice.random() < 0.1:
        entries.append(call(f"{name}-open", "wait"))
    return [*entries, answered(a_sentence(dice))]


async def converse(pod: Pod, dice: random.Random, *, turns: int, prefix: str = "t") -> None:
    """Write turns of three sessions of one subject."""
    for number in range(turns):
        session = f"s{dice.randrange(3)}"
        await pod.append(session, f"{prefix}{number}", *a_turn(dice, f"{prefix}{number}"))


def a_wish(dice: random.Random) -> dict[str, Any]:
    """Return a random request."""
    caps = {name: dice.randrange(0, 2000) for name in ("summary", "history", "recall") if dice.random() < 0.2}
    fields: dict[str, Any] = {
        "budget": budget(dice.choice((None, dice.randrange(40, 400), dice.randrange(100, 9000))), **caps),
        "route": dice.choice(("", "talk")),
        "query": dice.choice(("", a_sentence(dice), dice.choice(TOPICS))),
        "include": dice.choice(((), (), (HISTORY, RECALL), (SUMMARY, HISTORY), (RECALL,), (POLICY,))),
        "tokenizer": dice.choice(("", "", "", "cl100k_base")),
    }
    return {"session": dice.choice(("s0", "s1", "s2", "unborn")), **fields}


async def publish(pod: Pod) -> None:
    """Point the route `talk` at a policy that has all sources."""
    await pod.publish(POLICY_DOCUMENT)
    await pod.route("talk", "talk", 1)
