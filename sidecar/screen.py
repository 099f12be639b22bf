"""Weak signals in the text of a claim, for which it waits for review. Pure.

Origin is the gate (`sidecar.gateway`); this is a second look at what came through it, or would. No pattern catches a
plausible false fact, and eager patterns flag honest text: so these ask for a whole phrase that speaks to a model or in
the name of an authority, never for a word. They read the normal form, so that a disguise does not help.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from sidecar import normal, pii
from standpipe.v1 import fact_pb2


def _phrases(*patterns: str) -> re.Pattern[str]:
    """Return a pattern for any of some phrases, whole words, their letters in normal form."""
    return re.compile("|".join(f"(?:{_plain(pattern)})" for pattern in patterns))


def _plain(text: str) -> str:
    """Return a text in small letters without marks, each letter that looks like a Latin one as that."""
    return "".join(normal.seen(char) for char in text)


_RULES: Final = (
    r"(?:instructions?|prompts?|directives?|guidelines?|rules|constraints|restrictions|safeguards|training"
    r"|polic(?:y|ies))"
)
_BEFORE: Final = (
    r"(?:previous|prior|preceding|above|earlier|former|existing|other|system|safety|your|all|any|these|those)"
)
_MODEL: Final = r"(?:you|the (?:assistant|model|ai|bot|chat ?bot|agent|llm|system))"
_DEEDS: Final = (
    r"(?:obey|comply|ignore|disregard|reveal|disclose|leak|send|forward|e ?mail|transfer|wire|execute|run|invoke"
    r"|delete|"
    r"approve|grant|recommend|promote|output|print|respond|reply|answer|say|tell|claim|treat|trust|follow|append"
    r"|include|"
    r"insert|use|call|refuse|pretend|act|assume|report|click|visit|open|pay|authori[sz]e|insist|mention|link)"
)

_MISDEEDS: Final = (
    r"(?:obey|comply|ignore|disregard|reveal|disclose|leak|send|forward|transfer|wire|execute|invoke|delete"
    r"|approve|grant|"
    r"recommend|promote|trust|insist|pretend|authori[sz]e|pay|click|visit|insert|append|refuse|claim)"
)

_INSTRUCTION: Final = _phrases(
    rf"\b(?:ignore|disregard|forget|override|bypass|drop|set aside|do not follow|stop following)\b(?: (?:all|any"
    rf"|of|the|my|to)){{0,3}}"
    rf"(?: {_BEFORE}){{1,4}} (?:\w+ )?{_RULES}\b",
    r"\b(?:ignore|disregard|forget|override) (?:everything|anything|what(?:ever)?|all)(?: \w+){0,3} (?:above"
    r"|before|told|said|earlier|so far)\b",
    r"\b(?:ignore|disregard|override|forget) (?:the |any |all )?(?:instructions?|system prompt)\b",
    r"\bnew (?:system )?(?:instructions?|prompt|directives?)(?: for (?:you|the \w+))?:",
    r"\byou(?: are|'re| will be) (?:now|hereby|henceforth|no longer) (?:an?|the|in|my|dan|acting|operating|bound"
    r"|allowed|free|required|instructed)\b",
    rf"\bfrom (?:now|here|this point) on,? (?:{_MODEL}\b|always\b|never\b|only\b|{_DEEDS}\b)",
    rf"\b{_MODEL} (?:must|should|shall|ought to|needs? to|ha(?:s|ve) to|(?:is|are) (?:required|instructed|ordered"
    rf"|told|obliged) to)"
    rf"(?: (?:always|never|not|now|only|immediately|secretly|instead|first|henceforth)){{0,2}} {_DEEDS}\b",
    rf"(?:^|[.;:!?,] )(?:you |please )?(?:always|never) {_MISDEEDS}\b",
    rf"\b(?:whenever|when|if|every time|each time|any ?time) (?:the |a |any )?(?:user|customer|human|person"
    rf"|client|anyone|anybody|somebody|someone|asked|they|he|she)\b"
    rf"[^.]{{0,80}}?,? (?:then |always |you (?:must|should|will) |please ){{1,2}}{_DEEDS}\b",
    rf"\b(?:whenever|when|if|every time|each time) (?:you(?:'re| are)? )?(?:asked|requested|queried"
    rf"|prompted)\b[^.]{{0,80}}?,? (?:then |always |please |you \w+ )?{_DEEDS}\b",
    r"\b(?:reveal|print|show|repeat|output|leak|disclose|display|dump|recite|tell me)\b(?: \w+){0,3}? (?:system"
    r"|hidden|secret|initial|original|developer) (?:prompt|instructions?|message)\b",
    r"\bdo(?: not|n't) (?:tell|inform|mention|reveal|warn|alert|notify|disclose|let)\b(?: \w+){0,4}? (?:the )?"
    r"(?:user|customer|human|client)s?\b",
    r"\bwithout (?:telling|asking|informing|notifying|alerting|warning|the knowledge of|consent of"
    r"|confirmation from|confirming with) (?:the )?(?:user|customer|human|client)s?\b",
    r"\b(?:send|forward|post|upload|transmit|e ?mail|leak|exfiltrate|copy) (?:\w+ ){0,4}?(?:messages?"
    r"|conversations?|chats?|histor(?:y|ies)|data|credentials?|passwords?|keys?|secrets?|tokens?|memor(?:y|ies)"
    r"|context)\b"
    r"[^.]{0,40}? (?:to|at) (?:https?|www|[\w.+]{1,64}@|the following|this (?:address|url|server|endpoint|number))",
    r"\b(?:pretend|act|behave|respond|answer|roleplay|role play) (?:(?:to be|as if|as though|like|that) )?"
    r"(?:you(?:'re| are| were| have)|an? (?:un\w+|evil|jailbroken|different) (?:ai|assistant|model|bot))\b",
    r"\b(?:do anything now|dan mode|jailbreak mode|jailbroken (?:ai|mode|model|assistant)|(?:enter|enable"
    r"|activate|switch to|you are in) (?:developer|debug|god|admin|sudo|unrestricted) mode)\b",
    r"\b(?:without|no|free of|free from|ignoring) (?:any |all |your )?(?:restrictions|filters|guardrails"
    r"|safety (?:rules|guidelines|filters)|content polic(?:y|ies))\b",
    r"<\|? ?/?(?:im.start|im.end|system|assistant|user|endoftext|begin.of.text|eot.id|start.header.id)\b",
    r"\[/? ?inst\]|<<? ?/?sys ?>>?|#{2,} ?(?:system|instructions?|assistant)\b|</? ?(?:instructions?|recalled"
    r"|earlier|system)\b ?/?>",
    r"(?:^|\n|: |\. )(?:system|assistant|developer) ?(?:prompt|message|instruction)? ?: ?[^ ]",
    r"\b(?:ignora|olvida|descarta)\b(?: \w+){0,4} (?:instrucciones|istruzioni|reglas|regole)\b",
    r"\b(?:ignore[zr]?|oublie[zr]?|ne tiens pas compte d\w+)\b(?: \w+){0,4} (?:consignes|directives|regles)\b"
    r"|\boublie[zr]? (?:toutes )?(?:les|tes|vos) instructions\b",
    r"\b(?:ignorier(?:e|en sie)|vergiss|vergessen sie|missachte)\b(?: \w+){0,4} (?:anweisungen|regeln"
    r"|instruktionen|vorgaben)\b",
    r"\b(?:ignore|esqueca|desconsidere)\b(?: \w+){0,4} (?:instrucoes|regras)\b",
    r"\b(?:negeer|vergeet)\b(?: \w+){0,4} (?:instructies|regels|aanwijzingen)\b",
    r"\b(?:zignoruj|ignoruj|zapomnij)\b(?: \w+){0,4} (?:instrukcj\w+|polecen\w+|zasad\w*)\b",
    r"\b(?:игнорируй(?:те)?|проигнорируй(?:те)?|забудь(?:те)?)\b(?: \w+){0,4} (?:инструкци\w+|указани\w+"
    r"|правил\w*)\b",
    r"(?:忽略|无视|忘记|忽視|無視して).{0,12}(?:指令|指示|说明|規則|规则|命令)|(?:指示|命令|指令).{0,6}(?:無視|忘れ|忽略)",
)

_POWERS: Final = (
    r"(?:administrator|admin|root|super ?user|operator|developer|system|security team|compliance team"
    r"|it department|platform)"
)
_AUTHORITY: Final = _phrases(
    r"\b(?:system|admin(?:istrator)?|operator|developer|root|security|platform|executive) (?:override|directive"
    r"|authori[sz]ation|instructions?|command|decree)\b",
    rf"\b(?:authori[sz]ed|mandated|verified|ordered|confirmed|cleared|whitelisted|pre approved) by (?:the |your "
    rf"|our )?(?:{_POWERS}|anthropic|openai|provider|vendor|management)\b",
    rf"\b(?:i am|i'm|this is|speaking as|writing as|as|message from|notice from|instruction from|orders? from"
    rf"|request from) your (?:system )?{_POWERS}s?\b",
    rf"\b(?:message|notice|instructions?|orders?|update|announcement|alert) from (?:the )?(?:{_POWERS}|anthropic"
    rf"|openai)s?\b",
    rf"\b(?:i am|i'm|this is|speaking as) (?:the |an? )?(?:system (?:administrator|operator)|{_POWERS} of this "
    rf"(?:system|assistant|model|bot|service))\b",
    r"\b(?:has|have|had|with|grant(?:s|ed)?|given?|gets?|holds?|receives?) (?:\w+ ){0,3}?(?:root|admin"
    r"(?:istrator)?|super ?user|unlimited|unrestricted|elevated|privileged|operator) (?:access|privileges?|rights"
    r"|permissions?|clearance|authority)\b",
    r"\b(?:is|are|am) (?:now )?(?:an? |the )?(?:verified|trusted|authori[sz]ed|privileged|certified) "
    r"(?:system )?(?:administrators?|admins?|operators?|developers?|source|employee|staff|user|agent)\b",
    r"\b(?:is|are|am) (?:always |now )?(?:allowed|authori[sz]ed|permitted|entitled|cleared|exempt) (?:to|from) "
    r"(?:bypass|skip|override|ignore|access|approve|see|receive|verification|authentication|security|all|any)\b",
    r"\b(?:no|without|skip|waive|needs? no|does not need|doesn't need|not need|exempt from) (?:any |further "
    r"|additional |identity )?(?:verification|authentication|approval|authori[sz]ation|identity checks?"
    r"|security checks?)\b"
    r"(?= (?:is|are|needed|required|necessary|for|checks?|steps?|whatsoever)|[.,;!]|$)",
    r"\b(?:this|the following) (?:is|message is|statement is|instruction is|rule is|has) (?:an? )?(?:official"
    r"|binding|authoritative|mandatory|top priority|highest priority|absolute priority)\b",
    r"\b(?:takes?|has|have|with) (?:absolute |highest |full )?(?:precedence|priority) over (?:all |any |the "
    r"|your |every )?(?:other |previous |prior |system )?(?:instructions?|rules|prompts?|polic(?:y|ies)|facts?)\b",
    r"\b(?:by order of|on the authority of|under the authority of) (?:the )?\w+",
)

_GAPS: Final = re.compile(r"[\s_*~\u2010-\u2015-]+")


def signals(text: str) -> list[fact_pb2.HoldReason]:
    """Return why a claim should wait for review, in the order of the reasons. `text`: its attribute and value.

    At most `limits.fact_value_bytes` and a name: the phrases are tried at every word.
    """
    plain = _GAPS.sub(" ", _plain(unicodedata.normalize("NFKC", text))).strip()
    found = []
    if _INSTRUCTION.search(plain):
        found.append(fact_pb2.HOLD_REASON_INSTRUCTION)
    if _AUTHORITY.search(plain):
        found.append(fact_pb2.HOLD_REASON_AUTHORITY)
    if any(span.kind == pii.SECRET for span in pii.find(text)):
        found.append(fact_pb2.HOLD_REASON_SECRET)
    if normal.hidden(text):
        found.append(fact_pb2.HOLD_REASON_HIDDEN_TEXT)
    return found
