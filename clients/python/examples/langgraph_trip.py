"""A LangGraph workflow that asks a human in its middle: its checkpoints and its store are kept by Standpipe.

Run it beside a server: `pip install 'standpipe[langgraph]' langgraph`, `standpipe serve`, then this file.
STANDPIPE_TARGET names another server.
"""

import asyncio
import operator
import uuid
from typing import Annotated, Any, TypedDict

from langgraph.graph import START, StateGraph
from langgraph.store.base import BaseStore
from langgraph.types import Command, interrupt

import standpipe
from standpipe.adapters.langgraph import StandpipeSaver, StandpipeStore


class Trip(TypedDict):
    """The state of the workflow."""

    city: str
    steps: Annotated[list[str], operator.add]


def plan(state: Trip) -> dict[str, Any]:
    """Do something that must not be done twice."""
    return {"steps": [f"a train to {state['city']}"]}


def ask(state: Trip) -> dict[str, Any]:
    """Wait for a human, for minutes or weeks."""
    answer = interrupt(f"Book {state['city']}?")
    return {"steps": [f"the human said {answer}"]}


async def keep(state: Trip, *, store: BaseStore) -> dict[str, Any]:
    """Keep what other threads of this person should know."""
    await store.aput(("trips",), state["city"], {"steps": state["steps"]})
    return {"steps": ["booked"]}


workflow = StateGraph(Trip)
for node in (plan, ask, keep):
    workflow.add_node(node)
workflow.add_edge(START, "plan")
workflow.add_edge("plan", "ask")
workflow.add_edge("ask", "keep")


def whose(config: Any) -> str:
    """Say whose a thread is: its data is exported and erased with this subject."""
    return str(config["configurable"]["user_id"])


async def main() -> None:
    """Start a trip in one process, and finish it in what might be another."""
    thread = {"configurable": {"thread_id": f"trip-{uuid.uuid4().hex}", "user_id": "anna"}}
    async with standpipe.connect() as client:
        graph = workflow.compile(checkpointer=StandpipeSaver(client, subject=whose))
        stopped = await graph.ainvoke({"city": "Porto", "steps": []}, thread)
        print(stopped["__interrupt__"][0].value)

    async with standpipe.connect() as client:
        store = StandpipeStore(client, subject="anna")
        saver = StandpipeSaver(client, subject=whose)
        graph = workflow.compile(checkpointer=saver, store=store)
        done = await graph.ainvoke(Command(resume="yes"), thread)
        print(done["steps"])
        print([item.value for item in await store.asearch(("trips",))])
        print(len([state async for state in graph.aget_state_history(thread)]), "checkpoints")


asyncio.run(main())
