"""Every limit, with its reason. Nothing in Standpipe grows without one.

Units stand last in the name: ``_max`` counts things, ``_bytes`` UTF-8 or wire bytes, ``_tokens`` tokens, ``_ms``
milliseconds, ``_s`` seconds; a ``_default`` holds where nothing was asked for. GetServerInfo publishes all of them; a
test reads this file and demands a test for each.
"""

from __future__ import annotations

from typing import Final

# --- one request -------------------------------------------------------------------------------------------
id_chars_max: Final = 128
"""Session, subject, route and request ids: they lead every key, and keys are compared often."""

message_bytes: Final = 512 << 10
"""One message or tool result: 120 pages. Longer content is a document, not an utterance."""

turn_bytes: Final = 1 << 20
"""All of a turn: analysing a megabyte of text takes over a second, and a commit must end within its deadline."""

whitespace_run_chars_max: Final = 500_000
"""White space in one piece of a text: the tokenizers keep a step of backtracking for each character of it, and give up
at a million."""

tool_arguments_bytes: Final = 256 << 10
"""One tool call's arguments: JSON that a model wrote."""

app_json_bytes: Final = 256 << 10
"""One entry in the application's own form: what a framework keeps of one step, such as a call with its arguments."""

app_json_depth_max: Final = 100
"""How deep it may be nested: what the strictest of the usual JSON libraries read, protobuf's in Java and C++."""

name_bytes: Final = 128
"""A speaker's or tool's name: it is repeated on every rendered line."""

turn_entries_max: Final = 256
"""Entries of one turn: an agent's long loop; what is longer should commit as it goes."""

message_parts_max: Final = 64
"""Parts of one message."""

citations_max: Final = 64
"""Citations of one message."""

media_uri_bytes: Final = 2048
"""A media reference: what browsers accept as an address."""

media_type_bytes: Final = 127
"""An IANA media type: the registry's own limit."""

media_description_bytes: Final = 4096
"""What stands for the media in the prompt."""

query_bytes: Final = 32 << 10
"""A hydrate's query: it travels in the receipt."""

budget_tokens_max: Final = 1 << 20
"""A budget: the largest context windows there are."""

receipt_bytes: Final = 64 << 10
"""A receipt: the query and a vector, with room."""

token_chars_max: Final = 512
"""A consistency token: a few numbers."""

cause_bytes: Final = 256
"""Why a session was ended."""

policy_bytes: Final = 256 << 10
"""A policy document: prompts included."""

wire_bytes: Final = 8 << 20
"""One gRPC message in either direction: a full turn of the largest messages does not fit, on purpose, since
it would have to be read whole on every replay. Both sides set it; gRPC's own default is 4 MiB to receive."""

page_max: Final = 1000
"""Rows of one listed page."""

page_default: Final = 100
"""Rows of a page whose size was not asked for."""

page_bytes: Final = 3 << 20
"""Event bytes of one page: below gRPC's default of 4 MiB, so that a stock client can read it."""

# --- state ---------------------------------------------------------------------------------------------------
state_key_bytes: Final = 1024
"""A record's key: with the ids before it, it fits into an index row of PostgreSQL, which takes 2,700 bytes."""

state_value_bytes: Final = 1 << 20
"""A record's value: the checkpoint of a long agent run has some 100 KB. What is larger is a file."""

state_writes_max: Final = 256
"""Records that one call changes or reads: the writes of a step of a graph that fans out a hundredfold."""

state_write_bytes: Final = 4 << 20
"""Keys and values of one write: it is one transaction, which others of the subject wait for."""

state_ttl_s: Final = 315_360_000
"""The longest time that a record is given: ten years. What is to be kept longer has none."""

state_records_max: Final = 100_000
"""Records of one subject, or of a tenant by itself: an erasure removes them in one transaction."""

state_token_chars_max: Final = 2048
"""A page token of state: a key of state_key_bytes in base64, and what it is bound by."""

state_delete_max: Final = 1000
"""Records that one call deletes by prefix: commits wait for it for some 10 ms."""

state_expire_max: Final = 1000
"""Records whose time has passed that are removed in one transaction, as in state_delete_max."""

# --- exports and imports ---------------------------------------------------------------------------------
import_bytes: Final = 256 << 20
"""A file of another system that `standpipe memory import` reads: it is read whole before anything is sent, and Python
takes ten times its size for it. A larger one can be cut at any conversation."""

export_page_bytes: Final = 2 << 20
"""One page of an export: half of what a stock gRPC client reads, since one line, such as a document's, may be longer
than that."""

import_line_bytes: Final = 8 << 20
"""One line of a file that is imported: a turn or document of the largest size, each character of it escaped."""

import_changes_max: Final = 256
"""Changes of memory in one event that is imported: twice what a request makes of its claims, with room."""

ingest_calls_max: Final = 64
"""Calls of one `standpipe memory ingest` in flight: a server's cores are busy with far fewer."""

ingest_call_ms: Final = 60_000
"""One such call: documents_bytes of text take a busy server several seconds."""

ingest_patience_s: Final = 300
"""How long an ingestion goes on asking a server that had answered and does no more: a restart, or a node that is
replaced. Then it ends, and can be run again."""

# --- a session's view --------------------------------------------------------------------------------------
view_bytes: Final = 256 << 10
"""What a view keeps of a session's end, in weighed bytes: 16,384 tokens at 16 bytes a token, so that the
largest history window always lies inside."""

entry_weight_bytes: Final = 32 << 10
"""What one entry weighs at most, so that a giant does not push all others out of the view."""

history_tokens_max: Final = 16_384
"""The largest history cap of a policy; see view_bytes."""

checkpoint_bytes: Final = 64 << 10
"""The weighed bytes between two checkpoints: a cold load reads at most view_bytes + this much."""

summary_pool_max: Final = 96
"""Summary entries that a view keeps of all that left it."""

summary_tokens_max: Final = 4096
"""The largest summary cap of a policy: what the pool can fill."""

open_calls_max: Final = 256
"""Tool calls of one session that wait for their result."""

session_events_max: Final = 1 << 20
"""Turns of one session: one a second for twelve days. An agent in a loop is noticed, and what removes a session's log
does so in one transaction."""

# --- recall ------------------------------------------------------------------------------------------------
scope_items_max: Final = 131_072
"""Items of one subject that are ranked in process, newest first: 200 MB of vectors. What is older is left out
and named in `degraded`."""

item_tokens_max: Final = 96
"""One recall item: longer messages are cut at paragraphs, lines or sentences, so that a budget holds several."""

recall_candidates_max: Final = 512
"""Items of one ranking: four times what 4,000 tokens hold, and it bounds the sorting."""

segment_citations_max: Final = 65
"""References of one segment: a claim, and as many sources as it can have; or what was folded into one item."""

search_results_max: Final = 100
"""Results of one search: more than a person reads, and a fifth of a ranking."""

search_results_default: Final = 20
"""The same when a search names no number."""

omissions_listed_max: Final = 32
"""Omissions that a served bundle lists; a replay can list all."""

# --- memory ------------------------------------------------------------------------------------------------
facts_per_request_max: Final = 64
"""Claims of one request: each is checked against all that is held, and its sources are read."""

sources_max: Final = 64
"""Sources of one claim, those that confirmations add included: more make it no truer."""

fact_attribute_bytes: Final = 128
"""What a claim is about: a key, not a sentence."""

fact_value_bytes: Final = 2048
"""What a claim says: a paragraph. What is longer is a document."""

extractor_version_bytes: Final = 128
"""The version of what made a claim: the name of a model and of a prompt."""

facts_held_max: Final = 1024
"""Claims that are held true of one subject: at some 20 tokens each five times what the largest facts section shows.
The least useful are pruned."""

facts_pinned_max: Final = 64
"""Pinned claims of one subject: every bundle shows them all."""

profile_attributes_max: Final = 64
"""Attributes of one profile: every bundle shows them all."""

profile_value_bytes: Final = 512
"""An attribute of a profile: a line, not a biography."""

documents_per_request_max: Final = 16
"""Documents of one request: each is an append of its own."""

document_bytes: Final = 1 << 20
"""One document: 250 pages. Cutting and counting it takes over a second."""

documents_bytes: Final = 4 << 20
"""All documents of one request: half of what one gRPC message may hold, and seconds of work."""

document_title_bytes: Final = 256
"""A document's title: it stands above what is quoted of it, and is indexed with every chunk."""

document_uri_bytes: Final = 2048
"""Where a document comes from: what browsers accept as an address."""

reviewer_bytes: Final = 128
"""Who reviewed a claim: a name or an address."""

memory_attempts_max: Final = 64
"""Decisions on one change of memory that others overtook: each time another writer has got through."""

belief_cache_bytes: Final = 64 << 20
"""Beliefs in process, least recently used out first: some 20,000 changes."""

# --- the process -------------------------------------------------------------------------------------------
view_ttl_s: Final = 86_400
"""How long an idle view stays hot unless a policy says otherwise: a day of conversation."""

hot_lease_ms: Final = 1000
"""How long a process may rely on what it last read of grants and routes: the wait of commits after a hot store failed
over, and of SetRoute. All releases that share a record store must agree on it: a change takes a migration."""

hot_lease_margin_ms: Final = 50
"""What is added to every wait for leases of others to end: clocks that run at rates 5 % apart still agree."""

hot_timeout_ms: Final = 250
"""What one call to the shared hot store may take. The record store answers in milliseconds, so a hot store that is slow
is no help; but a commit that it does not confirm takes the trust in it from all for a lease, and a machine out of
breath must not do that. A server that says nothing for half of it hangs."""

hot_connections_max: Final = 16
"""Connections of one process to each server of the hot store: a call holds one for some 100 us, and hundreds of pods
must fit into the server's 10,000."""

hot_lanes_max: Final = 2
"""Round trips to one server of the hot store at a time: calls that come meanwhile share the next, since a call costs
this process more in system calls than in anything else. With two, a long answer does not hold up all."""

hot_session_bytes_max: Final = 768 << 10
"""The tail of one session in the hot store: a cold load (view_bytes and checkpoint_bytes of text, a third more as it is
stored) and as much again to grow."""

hot_bare_ttl_s: Final = 60
"""How long a session's entry without a tail stays: it only tells whether the entry is the same, from a reader's look to
its publish."""

hot_marks_max: Final = 64
"""Announced appends of one session that stand in the hot store by name; beyond, one mark stands for all of them."""

view_cache_bytes: Final = 64 << 20
"""Views in the in-process hot store, least recently used out first."""

block_cache_bytes: Final = 256 << 20
"""Recall blocks in process, least recently used out first."""

policy_cache_max: Final = 256
"""Parsed policy versions in process, and routes that are followed, of which a lease's renewal reads each. Beyond, the
call that needs one reads it."""

append_queue_max: Final = 1024
"""Commits that wait for the writer; beyond, OVERLOADED."""

append_batch_max: Final = 64
"""Commits in one SQLite transaction: they share one fsync."""

record_pool_max: Final = 4
"""PostgreSQL connections of one process: pods times connections are what exhausts a server. One of them is never
used for writes, so that no hydrate waits behind all commits."""

record_attempts_max: Final = 5
"""Runs of a transaction that has to give way to others, as after a deadlock: each time another has got through."""

record_margin_ms: Final = 50
"""How long before the deadline the record store's server ends a statement: so that its word arrives in time, and the
caller learns that nothing was written. A tenth of what is left, if that is less."""

record_grace_ms: Final = 1000
"""How long after its deadline a commit may still end by itself: then its connection is given up."""

scrub_wait_ms: Final = 2000
"""How long a scrub of PostgreSQL waits for transactions that began before it, since these still see what was removed:
commits end within milliseconds, and who makes a backup is not waited for."""

bind_wait_ms: Final = 2000
"""How long the binding of a role to tenants waits for a table, since all statements on it queue up behind: a backup at
work holds it for longer, and is not to stop who serves."""

hydrates_in_flight_max: Final = 512
"""Hydrates at work at once; beyond, OVERLOADED."""

calls_at_work_max: Final = 512
"""Calls at work at once where callers act for several tenants. No tenant has more of them than are free for the others:
one alone gets half, and whatever some tenants do, another finds room."""

embed_query_tokens_max: Final = 1 << 14
"""Tokens of queries that wait for an embedder on a CPU, 64 of the longest there are or 512 of 30 tokens; beyond, recall
goes by words alone. At 10,000 tokens a second the last of them waits 1.6 s, longer than any hydrate would."""

embed_item_tokens_max: Final = 1 << 18
"""Tokens of passages that wait for an embedder on a CPU, and of one call: some 6,000 texts, and 26 s of work."""

embed_gpu_query_tokens_max: Final = 1 << 18
"""Tokens of queries that wait for a GPU: it runs millions a second, so the last of them waits a tenth of one."""

embed_gpu_item_tokens_max: Final = 1 << 21
"""Tokens of passages that wait for a GPU, and of one call: about a second of work, and 80 MB of vectors to come."""

embed_pause_ms: Final = 10
"""The least pause that is advised to who finds no room before the embedder: a run or two."""

embed_pause_longest_ms: Final = 5000
"""The longest: by then there may be room again, since callers leave."""

embed_text_chars_max: Final = 16_384
"""Of a text that the embedder's tokenizer reads; what stands behind is not seen. 256 tokens are about 1,200 characters,
and a tokenizer that reads a megabyte to use those would hold the worker for 100 ms."""

embed_call_texts_max: Final = 512
"""Texts of one call to a shared embedder: 50,000 tokens at most in one go, 20 ms of a GPU."""

embed_text_bytes: Final = 64 << 10
"""One text of such a call: what embed_text_chars_max characters take at most."""

embed_model_chars_max: Final = 192
"""The id of a model in such a call: a card's 128 characters, a precision, and room."""

embed_call_ms: Final = 60_000
"""The longest such a call may wait, where its caller gives it so long: bulk work behind a full queue, twice over."""

embed_query_run_tokens: Final = 2048
"""Padded tokens of a GPU's run of queries: small, since each waits for a whole run, be it alone in it."""

embed_passage_run_tokens: Final = 16_384
"""Padded tokens of a GPU's run of passages: enough to fill the device, and what a query waits for at most."""

embed_hedge_ms: Final = 5
"""How long a query waits for one replica of a shared embedder, at least, before another is asked too: less is what the
network and a busy event loop take."""

embed_hedge_percent_max: Final = 10
"""Of a hundred queries, those that are sent to a second replica: a tenth more load takes the tail off, and much more
would make it."""

embed_silence_ms: Final = 50
"""How long calls of a replica wait without any answer from it, and then end, to count as one failure of it: with
breaker_failures_max, a quarter of a second of a GPU that takes 5 ms."""

embedder_models_max: Final = 16
"""Models that a shared embedder may list: two are served side by side during a switch."""

embedder_look_ms: Final = 2000
"""What listing the models of a replica may take, a connection that is made first included; nobody waits for it."""

embedder_list_s: Final = 30
"""Between two such lists where nothing happens: how late a process learns of a new model, at most."""

embed_batch_max: Final = 1024
"""Items of one order that a projection embeds and writes at once: what a GPU takes 50 ms for, and one transaction of
some milliseconds, for which commits wait."""

drop_vectors_max: Final = 4096
"""Vectors of a model that SQLite removes in one transaction, and those of the subject that it then is at: commits wait
for it, some 20 ms."""

work_claims_max: Final = 8
"""Work orders that a projection has at work: few, since they lie still for a lease when it dies; several, since a
claim costs an fsync."""

work_lease_s: Final = 30
"""How long a claim holds: twice what work_claims_max batches take in float32. It is also how long the work of a process
that was killed lies still."""

work_attempts_max: Final = 5
"""Claims of one work order in a row that come to nothing; then it is parked. A fault that passes by itself does not
outlast four pauses."""

work_pause_s_max: Final = 60
"""The longest pause before a work order that failed is tried again, and of a projection whose store is away."""

extract_items_max: Final = 64
"""Items that one extraction step looks at: what extract_turns_max turns mostly have, and little that is read twice."""

extract_turns_max: Final = 8
"""Turns that one question shows: a model cites better among few, and a step that fails repeats no more."""

extract_context_turns_max: Final = 2
"""Turns before them that it shows, too: what "there" and "she" mean stands mostly in the one before."""

extract_text_chars_max: Final = 24_000
"""Text of one question: 6,000 tokens, which with the prompt and the answer fit into every model's window."""

extract_answer_bytes: Final = 256 << 10
"""One answer of the endpoint: some thousand proposals. What is larger is no answer."""

extract_answers_max: Final = 2
"""Answers that are asked for while none can be read: a model at temperature 0 rarely does better the third time."""

extract_connect_s: Final = 5
"""Connecting to the endpoint: what does not answer by then is not there, and a worker that is to end waits for it."""

extract_call_s: Final = 60
"""One call of the endpoint: a large model on a busy machine writes a page in it."""

extract_lease_s: Final = 300
"""How long an extraction order is held: extract_answers_max calls, and the recording, twice over."""

sweep_batch_max: Final = 64
"""Expired sessions that are listed at once: each is removed in a transaction of its own, and another process may have
done it meanwhile."""

sweep_pause_s: Final = 60
"""Between two looks for expired sessions, and between two samples of how much there is: an hour is the shortest that a
log can be kept."""

nearest_s: Final = 2
"""How long after the record store last spoke for it a hydrate that asks for the nearest view is shown what this process
holds. Every erasure waits as long before it is done, and an agent's loop asks more often."""

erasures_at_work_max: Final = 16
"""Erasures that one process carries out at once; beyond, OVERLOADED: they are marked by then, and done by the next look
for what is unfinished."""

query_cache_max: Final = 4096
"""Query vectors kept: 1.5 KB each."""

data_keys_max: Final = 4096
"""Subjects' keys that a process holds unwrapped, and sessions whose subject it knows: some 300 bytes each."""

data_key_s: Final = 10
"""How long a process may use a subject's key before it asks for it again: so long after an erasure a subject cannot
begin anew, since who still held its old key would seal under it what nobody could read. Hydrates ask on their way."""

sealed_messages_max: Final = 1 << 32
"""Values sealed under one key: nonces are random, and with so many of 96 bits two are equal once in 2**33 subjects."""

sealed_inline_max: Final = 256
"""Values that are sealed or opened on the event loop, some 5 us each; more go to a thread."""

wrapping_keys_bytes: Final = 64 << 10
"""Wrapping keys of a deployment: a thousand rotations."""

wrapping_keys_s: Final = 60
"""Between two looks at the wrapping keys: what an orchestrator takes to bring a changed secret to its pods."""

wrapping_pause_s: Final = 1
"""Between two looks for a wrapping key that is not there: many calls may want it at once."""

wrapping_command_ms: Final = 10_000
"""What a command that prints the wrapping keys may take: it asks a service over a network."""

drain_ms: Final = 1500
"""From SIGTERM to the last answer: Kubernetes gives a sidecar 2 s after the pod's grace period."""

connection_age_ms: Final = 300_000
"""After which a client is asked to connect anew, give or take a tenth; its calls end first. Only then does it ask for
the server's addresses again: pods that were added beside this one get work within minutes."""

breaker_failures_max: Final = 5
"""Failures of a store in a row before calls to it fail at once: one lost connection is no outage."""

breaker_pause_ms: Final = 100
"""How long a store is left alone at first: a restart of a proxy is over by then. Jitter halves it at most."""

breaker_pause_longest_ms: Final = 3000
"""What that pause doubles up to: a store that came back is in use again after so long."""

examine_ms: Final = 10_000
"""How long `standpipe doctor` waits for a store: longer than any that could be served from."""

clock_skew_ms: Final = 1000
"""Between a store's clock and this machine's, before `standpipe doctor` calls it wrong: what NTP holds is far below,
and times of turns that are told to people are no better."""

disk_free_bytes: Final = 1 << 30
"""Of the SQLite file's disk, before `standpipe doctor` warns: a day of commits of 10 KB, one a second."""

deadline_default_ms: Final = 10_000
"""For calls that bring no deadline: no call waits for ever."""

# --- callers -----------------------------------------------------------------------------------------------
mounted_bytes: Final = 1 << 20
"""A mounted file of tokens, tenants, keys or certificates: what a ConfigMap or a Secret holds."""

mounted_look_s: Final = 1
"""Between two looks at mounted files: an orchestrator takes a minute to bring a change, and a look costs some 50 us."""

bearer_bytes: Final = 7 << 10
"""A caller's token: gRPC takes 8 KiB of metadata. Those of service accounts have about 1 KiB."""

caller_chars_max: Final = 512
"""A caller's name: a namespace and a service account have 63 and 253 characters, a SPIFFE ID rarely more than 200."""

callers_known_max: Final = 16_384
"""Tokens that a process knows, those that were refused, and callers whose rights it knows: some 300 bytes each. A token
is valid for an hour, so that is as many pods, each with its own."""

tenants_entries_max: Final = 10_000
"""Entries of the tenants file, which has mounted_bytes anyway: a new caller is compared with all of them, in 5 ms."""

tenants_patterns_max: Final = 64
"""Callers, and methods, of one entry."""

jwks_keys_max: Final = 64
"""Keys of a JWKS: issuers have two or three."""

jwks_look_s: Final = 60
"""Between two readings of a JWKS over https: how long a key counts that its issuer withdrew."""

jwks_pause_s: Final = 2
"""Between two readings for a key that is not known: tokens that name any key must not become a load on the issuer, and
the call of an honest one waits as long at most."""

jwt_leeway_s: Final = 30
"""Between the issuer's clock and this machine's: what is said of tokens' times is true within so much."""

review_fresh_s: Final = 60
"""How long a review counts: how long a service account that was deleted may still call."""

review_good_s: Final = 600
"""How long a review counts while the API server is away: an upgrade of a control plane takes minutes."""

review_refused_s: Final = 5
"""How long a token that was refused is refused without a question: who retries must not become a load."""

authority_calls_max: Final = 8
"""Calls of an API server or JWKS at once: one takes some 5 ms, so that 1,000 new pods are known within a second."""

authority_waiting_max: Final = 256
"""Tokens that wait for such a call; beyond, AUTHENTICATOR_UNAVAILABLE."""

authority_call_ms: Final = 2000
"""What such a call may take, the connection included: an API server answers a review in 10 ms."""

authority_answer_bytes: Final = 1 << 20
"""What it may answer: a JWKS has a few KiB, a review one."""
